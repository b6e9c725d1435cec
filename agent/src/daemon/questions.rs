//! What only the agent's task can answer.

use boxmeter_web::api::types::{KernelStatus, NsPerPacket};

use super::{agent::Agent, shared::Question};
use crate::kernel::KernelError;

impl Agent {
    pub(super) fn question(&mut self, question: Question) -> Result<(), KernelError> {
        match question {
            Question::Flush(answer) => {
                self.flush_waiting.push(answer);
                self.flush();
            }
            Question::Flows(answer) => {
                let _ = answer.send(self.meter.flows().map_err(|error| error.to_string()));
            }
            Question::Audit(answer) => {
                let _ = answer.send(Ok(self.meter.kernel.audit()));
            }
            Question::Kernel(answer) => {
                let _ = answer.send(self.kernel_status());
            }
            Question::Watched(answer) => {
                let _ = answer.send((self.kernel_status(), self.meter.watched()));
            }
            Question::UsersChanged(now, done) => {
                let held = self.users_changed(now);
                let _ = done.send(());
                held?;
            }
            Question::Everybody(policies, standings, done) => {
                let held = self.everybody_changed(policies, standings);
                let _ = done.send(());
                held?;
            }
            Question::Again(users, done) => {
                match users {
                    Some(users) => self.gate.ask(users),
                    None => self.gate.ask_everybody(),
                }
                let _ = done.send(());
            }
            Question::UsageImported(done) => {
                self.totals.read_again();
                let _ = done.send(());
            }
            Question::Tighten(tighter, done) => {
                self.tighten(&tighter);
                let _ = done.send(());
            }
        }
        Ok(())
    }

    fn kernel_status(&self) -> KernelStatus {
        let cost = self.meter.kernel.ns_per_packet().map(|ns| (ns > 0).then_some(ns));
        KernelStatus {
            attached: true,
            epoch: uuid::Uuid::from_bytes(self.meter.kernel.epoch()).simple().to_string(),
            ns_per_packet: NsPerPacket { ingress: cost[0], egress: cost[1] },
            counters: self
                .meter
                .kernel
                .stats()
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        }
    }
}
