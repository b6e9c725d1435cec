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
