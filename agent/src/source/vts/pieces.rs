//! An answer of any length while it comes: handed on, with what is no JSON in its texts made some, and never kept.

use std::io::{self, Read};

use bytes::Bytes;
use tokio::sync::mpsc;

/// Bytes of one text in it, which is kept whole until it is hashed. nginx itself takes no address that is longer
/// than its buffers, of some kilobytes.
pub const TEXT_MAX: usize = 16 << 20;

/// What may follow a backslash.
const ESCAPES: &[u8] = br#""\/bfnrtu"#;

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

    /// What is to be read of a piece. Before 0.2.5 the module makes `\"` in a text `\&quot;`, which is no escape, and
    /// there are bytes in texts that JSON does not have: neither may keep the rest from being read. No text may grow
    /// beyond all bounds: it is kept in memory.
    fn clean(&mut self, piece: &[u8]) -> io::Result<Vec<u8>> {
        let mut clean = Vec::with_capacity(piece.len() + 16);
        let mut rest = piece;
        while !rest.is_empty() {
            let Some(length) = &mut self.text else {
                let begins = rest.iter().position(|byte| *byte == b'"');
                let (outside, after) = rest.split_at(begins.map_or(rest.len(), |at| at + 1));
                self.text = begins.map(|_| 0);
                clean.extend_from_slice(outside);
                rest = after;
                continue;
            };
            if std::mem::take(&mut self.escaped) {
                clean.push(b'\\');
                let escape = ESCAPES.contains(&rest[0]);
                clean.push(if escape { rest[0] } else { b'\\' });
                rest = &rest[usize::from(escape)..];
                *length += usize::from(escape);
                continue;
            }
            let plain = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..0x20));
            let (text, after) = rest.split_at(plain.unwrap_or(rest.len()));
            clean.extend_from_slice(text);
            *length += text.len() + 1;
            if *length > TEXT_MAX {
                return Err(io::Error::other(format!("it has a text of more than {TEXT_MAX} bytes")));
            }
            let Some((special, after)) = after.split_first() else { break };
            match special {
                // Written when it is known what follows.
                b'\\' => self.escaped = true,
                b'"' => {
                    self.text = None;
                    clean.push(b'"');
                }
                _ => clean.push(b'?'),
            }
            rest = after;
        }
        Ok(clean)
    }
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() {
            let Some(next) = self.pieces.blocking_recv() else { return Ok(0) };
            self.now = Bytes::from(self.clean(&next)?);
        }
        let piece = self.now.split_to(self.now.len().min(into.len()));
        into[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}
