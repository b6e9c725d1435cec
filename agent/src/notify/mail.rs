//! Mail: one message to one address over SMTP. Each step says by itself what went wrong.

use std::time::{Duration, UNIX_EPOCH};

use lettre::{
    Message,
    message::{Mailbox, MultiPart, header},
    transport::smtp::{
        Error,
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, Certificate, TlsParameters},
        extension::ClientId,
    },
};

use super::{CONNECT_LIMIT, READY_LIMIT, Verdict, Voice, post, said, secret, words};
use crate::{
    config::notify::{Mail, Security},
    ledger::Delivery,
};

/// What tells programs that answer by themselves not to.
#[derive(Clone)]
struct AutoSubmitted;

impl header::Header for AutoSubmitted {
    fn name() -> header::HeaderName {
        header::HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(AutoSubmitted)
    }

    fn display(&self) -> header::HeaderValue {
        header::HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

pub(super) async fn send(config: &Mail, voice: &Voice, message: &Delivery) -> Verdict {
    let built = match build(config, voice, message) {
        Ok(built) => built,
        Err(why) => return Verdict::Refused { why, all: false },
    };
    let mut connection = match tokio::time::timeout(READY_LIMIT, connect(config, voice)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(why)) => return Verdict::later(why),
        Err(_) => {
            let (server, port, limit) = (&config.server, config.port(), READY_LIMIT.as_secs());
            return Verdict::later(format!("the mail server {server}:{port} was not ready within {limit} s"));
        }
    };
    let sent = connection.send(built.envelope(), &built.formatted()).await;
    match sent {
        Ok(_) => {
            // It is there; how the server says goodbye changes nothing.
            let _ = tokio::time::timeout(Duration::from_secs(2), connection.quit()).await;
            Verdict::Done
        }
        // Of an address that is not taken, others say nothing. What is for the admin is tried again: a server
        // that refuses everybody (no sign-in, no relaying, a full quota) is set right some time.
        Err(error) if error.is_permanent() => {
            let why = format!("the mail server refuses it: {}", told(&error));
            match message.data["own"] == true {
                true => Verdict::Refused { why, all: false },
                false => Verdict::Later { why, after: None, all: false },
            }
        }
        Err(error) if error.is_transient() => Verdict::Later {
            why: format!("the mail server does not take it now: {}", told(&error)),
            after: None,
            all: false,
        },
        // A repetition has the same Message-ID.
        Err(error) => Verdict::later(format!("the connection to the mail server broke: {}", told(&error))),
    }
}

/// What the server answered; else the innermost reason, since what is around it only says where.
fn told(error: &Error) -> String {
    match (error.status(), reasons(error).last()) {
        (None, Some(innermost)) => said(&innermost.to_string()),
        _ => said(&error.to_string()),
    }
}

fn reasons(error: &Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(error), |error| error.source())
}

/// Did TLS fail, whatever was done when it did?
fn is_of_tls(error: &Error) -> bool {
    let of_io = |error: &(dyn std::error::Error + 'static)| {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        inner.is_some_and(|inner| inner.is::<rustls::Error>())
    };
    error.is_tls() || reasons(error).any(of_io)
}

/// The message, the same at each attempt but for the boundary between its parts.
fn build(config: &Mail, voice: &Voice, message: &Delivery) -> Result<Message, String> {
    let letter = words::letter(voice, message);
    let from: Mailbox = config.from.parse().map_err(|error| format!("[notify.mail] from: {error}"))?;
    let to: Mailbox = message
        .recipient
        .parse()
        .map_err(|error| format!("{:?} is no mail address: {error}", said(&message.recipient)))?;
    let id = format!("<{}@{}>", message.id, from.email.domain());
    let html = letter.html().map_err(|error| error.to_string())?;
    let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(message.created_ms).unwrap_or(0));
    Message::builder()
        .from(from)
        .to(to)
        .subject(letter.subject.clone())
        .message_id(Some(id))
        .date(at)
        .header(AutoSubmitted)
        .multipart(MultiPart::alternative_plain_html(letter.text(), html))
        .map_err(|error| format!("the mail cannot be written: {error}"))
}

/// Connects, protects the connection and signs in.
async fn connect(config: &Mail, voice: &Voice) -> Result<AsyncSmtpConnection, String> {
    let place = format!("{}:{}", config.server, config.port());
    let hello = ClientId::Domain(voice.host.clone());
    let tls = tls(config)?;
    let implicit = Some(tls.clone()).filter(|_| config.security == Security::Tls);
    let server = (config.server.as_str(), config.port());
    let connecting = AsyncSmtpConnection::connect_tokio1(server, Some(CONNECT_LIMIT), &hello, implicit, None);
    let mut connection = connecting.await.map_err(|error| match is_of_tls(&error) {
        true => tls_error(&place, &error),
        false => unreached(&place, config, &error),
    })?;
    if config.security == Security::Starttls {
        connection.starttls(tls, &hello).await.map_err(|error| match error.is_client() {
            true => format!("{place} offers no STARTTLS: set security to \"tls\" if it speaks TLS at once"),
            false => tls_error(&place, &error),
        })?;
    }
    if !config.user.is_empty() {
        let password = secret(&config.password, &config.password_file)?;
        let credentials = Credentials::new(config.user.clone(), password.expose().to_owned());
        let signed_in = connection.auth(&[Mechanism::Plain, Mechanism::Login], &credentials).await;
        signed_in.map_err(|error| {
            let user = &config.user;
            format!("{place} refuses the user {user:?} or the password: {}", told(&error))
        })?;
    }
    Ok(connection)
}

fn unreached(place: &str, config: &Mail, error: &Error) -> String {
    let hint = match config.security {
        Security::Tls => "; is this the port for TLS?",
        Security::Starttls | Security::None => "; is this the port, and the right `security`?",
    };
    format!("the mail server {place} cannot be reached: {}{hint}", told(error))
}

fn tls_error(place: &str, error: &Error) -> String {
    let told = told(error);
    format!(
        "TLS with {place} failed: {told}; if its certificate is your own, name its authority in `ca_file`"
    )
}

fn tls(config: &Mail) -> Result<TlsParameters, String> {
    let mut builder = TlsParameters::builder(config.server.clone());
    if !config.ca_file.is_empty() {
        for certificate in post::certificates(&config.ca_file)? {
            let certificate = Certificate::from_der(certificate.to_vec())
                .map_err(|error| format!("a certificate in {} cannot be used: {error}", config.ca_file))?;
            builder = builder.add_root_certificate(certificate);
        }
    }
    builder.build().map_err(|error| format!("TLS: {error}"))
}
