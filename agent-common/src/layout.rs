//! The sizes and alignments that both sides rely on, checked when either side is compiled.

use core::mem::{align_of, size_of};

use crate::{
    Meta,
    command::{Command, Mailbox},
    event::Event,
    flow::{Flow, FlowKey},
    rate::{Lane, Pace, Rate},
    recent::Recent,
    user::{Account, Counters, User},
    watch::{Inbound, WatchKey, Watched},
};

const _: () = {
    assert!(size_of::<Meta>() == 24);
    assert!(size_of::<Counters>() == 32);
    assert!(size_of::<FlowKey>() == 24);
    assert!(size_of::<Flow>() == 112);
    assert!(size_of::<Recent>() == 64 && align_of::<Recent>() == 64);
    assert!(size_of::<Account>() == 64 && align_of::<Account>() == 64);
    assert!(size_of::<User>() == 128 && align_of::<User>() == 64);
    assert!(size_of::<Lane>() == 64 && align_of::<Lane>() == 64);
    assert!(size_of::<Rate>() == 128);
    assert!(size_of::<Pace>() == 8);
    assert!(size_of::<WatchKey>() == 16);
    assert!(size_of::<Watched>() == 64 && align_of::<Watched>() == 64);
    assert!(size_of::<Inbound>() == 192);
    assert!(size_of::<Event>() == 80);
    assert!(size_of::<Command>() == 88);
    assert!(size_of::<Mailbox>() == 16);
};
