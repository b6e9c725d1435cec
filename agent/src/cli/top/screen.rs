//! The terminal's side of the live view: its modes, its keys, and giving it back whatever happens.

use std::{
    io,
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use boxmeter_web::{
    api::live::LiveSnapshot,
    backend::{ApiError, Backend, LiveStream},
};
use futures_util::StreamExt;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyEventKind},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use super::{
    model::{Model, Sort, Step},
    view,
};
use crate::cli::{context::Context, failure::Failure};

/// Keys that wait; more are typed faster than anyone reads.
const KEYS_MAX: usize = 64;
/// How often the thread that reads keys looks whether it should end.
const KEY_POLL: Duration = Duration::from_millis(100);
/// How long to wait before asking an agent again that went away.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

pub async fn run(context: &Context, live: LiveStream, sort: Sort) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    // Sets a panic hook as well that gives the terminal back before the message is printed.
    let mut terminal = ratatui::try_init()?;
    let shown = watch(context, &mut terminal, live, sort, [&mut terminate, &mut hang_up]).await;
    ratatui::restore();
    shown
}

async fn watch(
    context: &Context,
    terminal: &mut DefaultTerminal,
    live: LiveStream,
    sort: Sort,
    [terminate, hang_up]: [&mut Signal; 2],
) -> Result<(), Failure> {
    let mut model = Model::new(sort);
    let mut keys = Keys::read();
    let mut live = Some(live);
    loop {
        let mut page = 1;
        terminal.draw(|frame| page = view::draw(context, frame, &model))?;
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = hang_up.recv() => return Ok(()),
            event = keys.receiver.recv() => match event {
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => {
                    if model.key(key, page) == Step::Quit {
                        return Ok(());
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            },
            news = next(context, &mut live) => match news {
                Ok(snapshot) => model.take(snapshot),
                Err(error) => model.stale = Some(error.message),
            },
        }
    }
}

/// The next snapshot. After the stream broke, the next call asks the agent anew.
async fn next(context: &Context, live: &mut Option<LiveStream>) -> Result<Arc<LiveSnapshot>, ApiError> {
    let stream = match live {
        Some(stream) => stream,
        None => {
            tokio::time::sleep(RETRY_PAUSE).await;
            let client = context.client().map_err(|_| ApiError::internal("no socket"))?;
            live.insert(client.subscribe().await?)
        }
    };
    let news = stream.next().await;
    match news {
        Some(Ok(snapshot)) => Ok(snapshot),
        Some(Err(error)) => {
            *live = None;
            Err(error)
        }
        None => {
            *live = None;
            Err(ApiError::unavailable("the agent ended the stream"))
        }
    }
}

/// Terminal events from a thread of their own: reading them blocks.
struct Keys {
    receiver: mpsc::Receiver<io::Result<Event>>,
    stop: Arc<AtomicBool>,
}

impl Keys {
    fn read() -> Self {
        let (sender, receiver) = mpsc::channel(KEYS_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let event = match event::poll(KEY_POLL) {
                    Ok(false) => continue,
                    Ok(true) => event::read(),
                    Err(error) => Err(error),
                };
                let last = event.is_err();
                if sender.blocking_send(event).is_err() || last {
                    break;
                }
            }
        });
        Keys { receiver, stop }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
