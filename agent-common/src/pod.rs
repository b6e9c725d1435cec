//! The shared types may be read from and written to maps as plain bytes.

use crate::{
    Meta,
    command::{Command, Mailbox},
    event::Event,
    flow::{Flow, FlowKey},
    rate::{Lane, Rate},
    recent::Recent,
    user::{Account, Counters, User},
    watch::{Inbound, WatchKey, Watched},
};

macro_rules! pod {
    ($($name:ty),+ $(,)?) => {
        $(
            // SAFETY: the type is `repr(C)`, `Copy`, has no implicit padding (see `layout`) and every
            // bit pattern is a value of it.
            unsafe impl aya::Pod for $name {}
        )+
    };
}

pod!(
    Meta, Command, Mailbox, Event, Flow, FlowKey, Account, Counters, Lane, Rate, Recent, User, Inbound,
    WatchKey, Watched
);
