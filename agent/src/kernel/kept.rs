//! Programs that stay pinned beside their links: the next agent with the same object takes them as they are, since
//! the kernel's verifier needs a second and more to look at them anew.
//!
//! The name of a pin says what was loaded: the hash of the object and the values that were put into it.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
};

use sha2::{Digest, Sha256};

use super::{
    error::KernelError,
    load::Programs,
    pins::{MAPS, PROGRAM, Pins},
    sys,
};

const NAMES: [&str; 5] = ["ingress", "egress", "sock_ops", "command", "walk"];

/// What programs are loaded from.
pub(super) struct Identity(String);

impl Identity {
    pub fn of(object: &[u8], values: &[u32]) -> Identity {
        let mut hash = Sha256::new();
        hash.update(object);
        values.iter().for_each(|value| hash.update(value.to_le_bytes()));
        let digest = hash.finalize();
        Identity(digest[..16].iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// bpf file systems allow no dots in names.
    fn pin(&self, name: &str) -> String {
        format!("{PROGRAM}{name}_{}", self.0)
    }
}

impl Programs {
    /// Those that are pinned, if all are there, with all of their maps.
    pub(super) fn kept(pins: &Pins, identity: &Identity) -> Option<Programs> {
        // A map that somebody has removed would be made anew, and these count into the old one.
        if !MAPS.iter().all(|name| pins.at(name).exists()) {
            return None;
        }
        let get = |name: &str| {
            let path = pins.at(&identity.pin(name));
            path.exists().then(|| sys::obj_get(&path).ok()).flatten()
        };
        let [ingress, egress, sock_ops, command, walk] = NAMES.map(get);
        Some(Programs {
            ingress: ingress?,
            egress: egress?,
            sock_ops: sock_ops?,
            command: command?,
            walk: walk?,
        })
    }

    fn named(&self) -> impl Iterator<Item = (&'static str, &OwnedFd)> {
        let Programs { ingress, egress, sock_ops, command, walk } = self;
        NAMES.into_iter().zip([ingress, egress, sock_ops, command, walk])
    }

    /// Keeps them for the next agent. Half of them are as good as none.
    pub(super) fn keep(&self, pins: &Pins, identity: &Identity) -> Result<(), KernelError> {
        for (name, program) in self.named() {
            let path = pins.at(&identity.pin(name));
            sys::obj_pin(program.as_fd(), &path)
                .map_err(KernelError::io(format!("bpf: pinning {}", path.display())))?;
        }
        Ok(())
    }
}

/// Is a pin of that name a program of ours, of any version?
pub(super) fn is_program(name: &str) -> bool {
    let parts = name.strip_prefix(PROGRAM).and_then(|rest| rest.rsplit_once('_'));
    parts.is_some_and(|(program, hash)| {
        NAMES.contains(&program) && hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

impl Pins {
    /// Removes every pinned program.
    pub(super) fn clear_programs(&self) -> Result<(), KernelError> {
        let entries =
            fs::read_dir(&self.path).map_err(KernelError::io(format!("reading {}", self.path.display())))?;
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        for name in names.filter(|name| is_program(name)) {
            self.remove_pin(&name)?;
        }
        Ok(())
    }
}
