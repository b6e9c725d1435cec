//! Reads an event stream (`text/event-stream`): bytes in, messages out. No IO.

/// The longest message that is put together: a full state of 16,384 users with long names is
/// about 8 MB.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// One message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub event: String,
    pub data: String,
}

/// More than [`MESSAGE_BYTES_MAX`] bytes without an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of the stream is longer than {MESSAGE_BYTES_MAX} bytes")]
pub struct TooLong;

/// Puts messages together from pieces that may end anywhere.
#[derive(Debug, Default)]
pub struct Parser {
    buffer: Vec<u8>,
    /// Where the search for a line's end goes on.
    searched: usize,
    current: Message,
    has_data: bool,
}

impl Parser {
    /// Adds a piece and gives the messages that it completes.
    ///
    /// # Errors
    /// [`TooLong`]; the stream is of no use after it.
    pub fn push(&mut self, piece: &[u8]) -> Result<Vec<Message>, TooLong> {
        self.buffer.extend_from_slice(piece);
        let mut messages = Vec::new();
        let mut start = 0;
        while let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
            let end = self.searched + at;
            let line = String::from_utf8_lossy(&self.buffer[start..end]).into_owned();
            messages.extend(self.line(line.trim_end_matches('\r')));
            start = end + 1;
            self.searched = start;
        }
        self.buffer.drain(..start);
        self.searched = self.buffer.len();
        if self.buffer.len() + self.current.data.len() > MESSAGE_BYTES_MAX {
            return Err(TooLong);
        }
        Ok(messages)
    }

    fn line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            let message = std::mem::take(&mut self.current);
            return std::mem::take(&mut self.has_data).then_some(message);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.current.event = value.to_owned(),
            "data" => {
                if self.has_data {
                    self.current.data.push('\n');
                }
                self.current.data.push_str(value);
                self.has_data = true;
            }
            // Comments (an empty name), ids and retry times are of no use here.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_any_split() {
        let text = "event: state\ndata: {\"a\":\ndata: 1}\n\n: keep-alive\n\ndata:x\r\n\r\n";
        let whole = Parser::default().push(text.as_bytes()).unwrap();
        assert_eq!(
            whole,
            [
                Message { event: "state".into(), data: "{\"a\":\n1}".into() },
                Message { event: String::new(), data: "x".into() },
            ]
        );
        for at in 0..text.len() {
            let mut parser = Parser::default();
            let mut parts = parser.push(&text.as_bytes()[..at]).unwrap();
            parts.extend(parser.push(&text.as_bytes()[at..]).unwrap());
            assert_eq!(parts, whole, "split at {at}");
        }
    }

    #[test]
    fn an_endless_message_is_refused() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; 1 << 20];
        let refused = (0..=64).map(|_| parser.push(&piece)).find(Result::is_err);
        assert_eq!(refused, Some(Err(TooLong)));
    }
}
