//! An answer of any length while it comes: handed on as it is, and never kept.

use std::io::{self, Read};

use bytes::Bytes;
use tokio::sync::mpsc;

/// Bytes of one text in it, which is kept whole until it is hashed. nginx itself takes no address that is longer
/// than its buffers, of some kilobytes.
pub const TEXT_MAX: usize = 16 << 20;

/// An answer while it comes.
pub struct Pieces {
    pieces: mpsc::Receiver<Bytes>,
    now: Bytes,
    /// Within a text: its bytes so far.
    text: Option<usize>,
    escaped: bool,
}

impl Pieces {
    pub fn new(pieces: mpsc::Receiver<Bytes>) -> Self {
        Pieces { pieces, now: Bytes::new(), text: None, escaped: false }
    }

    /// No text may grow beyond all bounds: it is kept in memory.
    fn check(&mut self) -> io::Result<()> {
        for byte in &self.now {
            let Some(length) = &mut self.text else {
                self.text = (*byte == b'"').then_some(0);
                continue;
            };
            *length += 1;
            if *length > TEXT_MAX {
                return Err(io::Error::other(format!("it has a text of more than {TEXT_MAX} bytes")));
            }
            match (self.escaped, byte) {
                (true, _) => self.escaped = false,
                (false, b'\\') => self.escaped = true,
                (false, b'"') => self.text = None,
                (false, _) => {}
            }
        }
        Ok(())
    }
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() {
            let Some(next) = self.pieces.blocking_recv() else { return Ok(0) };
            self.now = next;
            self.check()?;
        }
        let piece = self.now.split_to(self.now.len().min(into.len()));
        into[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}
