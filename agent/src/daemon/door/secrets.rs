//! Making and comparing secrets: passwords slowly, one at a time, so that guessing costs the guesser and
//! not the memory of the machine; random ones by a plain hash.

use std::sync::Arc;

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use boxmeter_web::{
    access::{ADMIN, PASSWORD_BYTES_MAX},
    backend::ApiError,
};
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Mutex, Semaphore};
use totp_rs::{Builder, Secret, Totp};

/// Passwords that wait to be looked at; more are answered with "busy".
const WAITING_MAX: usize = 16;
/// Characters of a password that is made: 20 of 32 kinds are 100 bits.
const PASSWORD_CHARS: usize = 20;
/// None that look alike.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Whose turn it is to hash a password: each takes 19 MiB and some 50 ms.
pub struct Hashing {
    turn: Arc<Mutex<()>>,
    places: Semaphore,
}

impl Default for Hashing {
    fn default() -> Self {
        Hashing { turn: Arc::default(), places: Semaphore::new(WAITING_MAX) }
    }
}

impl Hashing {
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let busy = |_| ApiError::unavailable("too many are signing in: try again in a moment");
        let _place = self.places.try_acquire().map_err(busy)?;
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let task = tokio::task::spawn_blocking(move || {
            // Held by the work and not by whoever waits for it, who may go away.
            let _turn = turn;
            work()
        });
        task.await.map_err(ApiError::internal)
    }

    pub async fn hash(&self, password: String) -> Result<String, ApiError> {
        let hashed =
            self.work(move || Argon2::default().hash_password(password.as_bytes()).map(|it| it.to_string()));
        hashed.await?.map_err(ApiError::internal)
    }

    /// Whether the password is the one of the hash.
    pub async fn verify(&self, password: String, hash: String) -> Result<bool, ApiError> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Ok(false);
        }
        let checked = self.work(move || {
            let parsed = PasswordHash::new(&hash).map_err(ApiError::internal)?;
            Ok(Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok())
        });
        checked.await?
    }
}

/// 32 random bytes as text.
pub fn random(prefix: &str) -> String {
    let bytes: [u8; 32] = rand::rng().random();
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes))
}

pub fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// A password that is read out and typed once.
pub fn password() -> String {
    let bytes: [u8; PASSWORD_CHARS] = rand::rng().random();
    let chars = bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)]));
    let groups: Vec<String> =
        chars.collect::<Vec<_>>().chunks(5).map(|group| group.iter().collect()).collect();
    groups.join("-")
}

fn builder(secret: Secret) -> Builder {
    Builder::new().with_secret(secret).with_account_name(ADMIN).with_issuer(Some("boxmeter"))
}

/// `None` for a secret that is too short.
pub fn totp(secret: Vec<u8>) -> Option<Totp> {
    builder(secret.into()).build().ok()
}

/// A new secret, the same as people type it, and as an authenticator reads it.
pub fn offer() -> anyhow::Result<(Vec<u8>, String, String)> {
    let totp = builder(Secret::generate()).build()?;
    Ok((totp.secret().as_bytes().to_vec(), totp.secret().to_base32(), totp.to_url()?))
}
