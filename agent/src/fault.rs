//! Faults on purpose, for tests of what a crash or a refusal leaves behind. `BOXMETER_FAULT` names the
//! place; nothing of it is in a release build.

#[cfg(debug_assertions)]
fn wanted(place: &str) -> bool {
    std::env::var_os("BOXMETER_FAULT").is_some_and(|wanted| wanted == place)
}

/// The process dies here as by `kill -9`, if a test wants it to.
#[inline]
pub fn point(place: &'static str) {
    #[cfg(debug_assertions)]
    if wanted(place) {
        tracing::warn!("dying at {place}, as a test wants");
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
    }
    #[cfg(not(debug_assertions))]
    let _ = place;
}

/// This thread goes no further here, if a test wants it to.
#[inline]
pub fn hang(place: &'static str) {
    #[cfg(debug_assertions)]
    if wanted(place) {
        tracing::warn!("hanging at {place}, as a test wants");
        loop {
            std::thread::park();
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = place;
}

/// How many times faster long intervals are to pass: 1, but in a test that says otherwise.
pub fn hurry() -> u64 {
    #[cfg(debug_assertions)]
    {
        let said = std::env::var("BOXMETER_HURRY").ok().and_then(|times| times.parse().ok());
        said.filter(|&times| times > 0).unwrap_or(1)
    }
    #[cfg(not(debug_assertions))]
    1
}

/// How far the wall clock is from the machine's: 0, but in a test that moves it. `BOXMETER_CLOCK` names a file
/// with a number of milliseconds, which may change at any time.
pub fn clock_shift_ms() -> i64 {
    #[cfg(debug_assertions)]
    {
        use std::sync::OnceLock;
        static FILE: OnceLock<Option<std::path::PathBuf>> = OnceLock::new();
        let file = FILE.get_or_init(|| std::env::var_os("BOXMETER_CLOCK").map(Into::into));
        let text = file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
        text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }
    #[cfg(not(debug_assertions))]
    0
}

/// Is this to fail, if a test wants it to? Once in the life of a process.
#[inline]
pub fn refuses(place: &'static str) -> bool {
    #[cfg(debug_assertions)]
    {
        use std::sync::atomic::{AtomicBool, Ordering};
        static DONE: AtomicBool = AtomicBool::new(false);
        wanted(place) && !DONE.swap(true, Ordering::Relaxed)
    }
    #[cfg(not(debug_assertions))]
    {
        let _ = place;
        false
    }
}
