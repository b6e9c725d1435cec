//! The JSON object of a request, taken field by field: a wrong value names its field, and a field
//! that nobody knows is an error, so that a misspelt limit is never silently left out.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::ApiError;

/// What is left of the object.
pub struct Fields {
    map: Map<String, Value>,
    known: Vec<&'static str>,
}

impl Fields {
    /// From a body; an empty one is an object without fields.
    ///
    /// # Errors
    /// `BadRequest` if it is no JSON object.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        if body.is_empty() {
            return Ok(Self::new(Map::new()));
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self::new(map)),
            Ok(_) => Err(ApiError::bad_request("the body is not a JSON object: give {\"name\": …}")),
            Err(error) => Err(ApiError::bad_request(format!("the body is not JSON: {error}"))),
        }
    }

    pub fn new(map: Map<String, Value>) -> Self {
        Fields { map, known: Vec::new() }
    }

    /// The value of a field; `None` where it is not there. `null` is a value: `T` decides about it.
    ///
    /// # Errors
    /// `Invalid` with the field's name.
    pub fn take<T: DeserializeOwned>(&mut self, name: &'static str) -> Result<Option<T>, ApiError> {
        self.known.push(name);
        let Some(value) = self.map.remove(name) else { return Ok(None) };
        serde_json::from_value(value).map(Some).map_err(|error| ApiError::invalid(name, error))
    }

    /// [`Fields::take`] of a field that must be there.
    ///
    /// # Errors
    /// `Invalid` with the field's name.
    pub fn need<T: DeserializeOwned>(&mut self, name: &'static str) -> Result<T, ApiError> {
        self.take(name)?.ok_or_else(|| ApiError::invalid(name, "is missing"))
    }

    /// An error if something is left that nobody took.
    ///
    /// # Errors
    /// `Invalid` with the first such field, and those that are known.
    pub fn finish(self) -> Result<(), ApiError> {
        let Some(name) = self.map.keys().next() else { return Ok(()) };
        let known = match self.known.as_slice() {
            [] => "none".to_owned(),
            known => known.join(", "),
        };
        Err(ApiError::invalid(name, format!("unknown field; known here: {known}")))
    }
}

/// A request's body.
pub trait FromFields: Sized {
    /// # Errors
    /// `Invalid` with the field's name.
    fn from_fields(fields: &mut Fields) -> Result<Self, ApiError>;
}

/// A request whose address says everything.
impl FromFields for () {
    fn from_fields(_fields: &mut Fields) -> Result<Self, ApiError> {
        Ok(())
    }
}
