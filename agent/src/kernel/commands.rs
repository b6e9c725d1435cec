//! Asks the programs to move bytes and owners: see `boxmeter_common::command`.

use std::{io, os::fd::AsFd};

use boxmeter_common::command::{COMMANDS_MAX, Command};

use super::{error::KernelError, load::Kernel, shared, sys};

/// A call that signals keep interrupting is taken up again this often without any progress.
const STALLS_MAX: u32 = 1_000;

impl Kernel {
    /// Works off `commands` in order and fills in their results. What is done stays done, also
    /// when an error comes in the middle (`result` is then 0 for the rest).
    ///
    /// # Errors
    /// The kernel refused to run the program.
    pub fn run(&mut self, commands: &mut [Command]) -> Result<(), KernelError> {
        for chunk in commands.chunks_mut(COMMANDS_MAX as usize) {
            self.run_chunk(chunk)?;
        }
        Ok(())
    }

    fn run_chunk(&mut self, chunk: &mut [Command]) -> Result<(), KernelError> {
        let mailbox = self.mailbox.at(0);
        let count = chunk.len() as u64;
        // SAFETY: mapped values. The program reads the entries only while `test_run` runs.
        unsafe {
            shared::store(&raw mut (*mailbox).count, 0);
            for (index, command) in chunk.iter_mut().enumerate() {
                command.result = 0;
                self.commands.at(index as u32).write_volatile(*command);
            }
            shared::store(&raw mut (*mailbox).next, 0);
            shared::store(&raw mut (*mailbox).count, count);
        }
        let result = self.run_until(count);
        for (index, command) in chunk.iter_mut().enumerate() {
            // SAFETY: as above.
            *command = unsafe { self.commands.at(index as u32).read_volatile() };
        }
        result
    }

    fn run_until(&self, count: u64) -> Result<(), KernelError> {
        let mailbox = self.mailbox.at(0);
        let mut stalls = 0;
        loop {
            // SAFETY: a field of a mapped value.
            let next = unsafe { shared::load(&raw const (*mailbox).next) };
            if next >= count {
                return Ok(());
            }
            match sys::test_run(self.programs.command.as_fd(), (count - next) as u32) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(KernelError::io("bpf: running commands")(error)),
            }
            // SAFETY: as above.
            if unsafe { shared::load(&raw const (*mailbox).next) } == next {
                stalls += 1;
                if stalls > STALLS_MAX {
                    let error = io::Error::from(io::ErrorKind::Interrupted);
                    return Err(KernelError::io("bpf: running commands")(error));
                }
            }
        }
    }
}
