//! Secrets by themselves; the way in as a whole is tested with a real agent and a real panel.

use super::{bucket, secrets};

#[test]
fn addresses_that_one_connection_gets_count_as_one() {
    let of = |text: &str| bucket(text.parse().unwrap());
    assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
    assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
    assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
}

#[test]
fn secrets_are_long_and_never_the_same() {
    let (a, b) = (secrets::random("bm_"), secrets::random("bm_"));
    assert!(a.starts_with("bm_") && a.len() == 46 && a != b);
    let (a, b) = (secrets::password(), secrets::password());
    assert!(a.len() == 23 && a != b, "{a}");
    assert!(a.split('-').all(|group| group.len() == 5), "{a}");
}

#[tokio::test]
async fn a_password_is_hashed_by_argon2id_with_a_salt_of_its_own() {
    let hashing = secrets::Hashing::default();
    let hash = hashing.hash("correct horse".to_owned()).await.unwrap();
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    assert_ne!(hashing.hash("correct horse".to_owned()).await.unwrap(), hash);
    assert!(hashing.verify("correct horse".to_owned(), hash.clone()).await.unwrap());
    assert!(!hashing.verify("correct horse ".to_owned(), hash.clone()).await.unwrap());
    assert!(!hashing.verify("x".repeat(1_000_000), hash).await.unwrap());
    assert!(hashing.verify("x".to_owned(), "not a hash".to_owned()).await.is_err());
}

/// A code of RFC 6238's table, whose secret is twenty bytes.
#[test]
fn codes_are_those_of_authenticators() {
    let totp = secrets::totp(b"12345678901234567890".to_vec()).unwrap();
    assert_eq!(totp.check("287082", 59), Some(1));
    assert_eq!(totp.check("287082", 59 + 30), Some(1), "the one before");
    assert_eq!(totp.check("287082", 59 + 60), None, "too old");
    let (bytes, text, uri) = secrets::offer().unwrap();
    assert_eq!((bytes.len(), text.len()), (20, 32));
    assert!(uri.starts_with("otpauth://totp/") && uri.contains(&text) && uri.contains("boxmeter"), "{uri}");
}
