//! Asks before something that cannot be taken back.

use std::io::{self, BufRead, IsTerminal, Write};

use boxmeter_web::backend::ApiError;

use super::{context::Context, failure::Failure};

/// Whether the person at the terminal says yes to `question`.
///
/// # Errors
/// `BadRequest` with `need_yes` where there is no terminal, and so nobody to say yes.
pub fn confirmed(context: &Context, question: &str, need_yes: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(ApiError::bad_request(need_yes).into());
    }
    let mut err = io::stderr();
    write!(err, "{question} {} ", context.text("ask.yes_or_no"))?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes" | "是"))
}
