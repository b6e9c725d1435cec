//! A real HTTP server of the tests: keeps every request, and answers as it is told, or not at all.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use boxmeter_tests::{netns::Netns, wait};
use serde_json::Value;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    /// By names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Asked {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub fn key(&self) -> String {
        self.headers["idempotency-key"].clone()
    }
}

/// What it answers.
#[derive(Clone, Debug)]
pub enum Answer {
    Status(u16, &'static str, Vec<(&'static str, String)>),
    /// Takes the request, says nothing, and ends.
    Nothing,
}

impl Answer {
    pub fn ok() -> Self {
        Answer::Status(200, "{\"ok\":true}", Vec::new())
    }

    pub fn status(status: u16) -> Self {
        Answer::Status(status, "", Vec::new())
    }
}

#[derive(Default)]
struct Inner {
    asked: Mutex<Vec<Asked>>,
    /// The first ones in turn; then the usual one.
    next: Mutex<Vec<Answer>>,
    usual: Mutex<Option<Answer>>,
    over: AtomicBool,
}

/// Listens in a namespace until it is dropped.
pub struct Sink {
    pub address: SocketAddr,
    inner: Arc<Inner>,
    netns: Netns,
}

impl Sink {
    pub fn new(netns: &Netns) -> Sink {
        Sink::at(netns, "127.0.0.1:0".parse().unwrap())
    }

    pub fn at(netns: &Netns, address: SocketAddr) -> Sink {
        let listener = netns.run(|| TcpListener::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner::default());
        let serving = Arc::clone(&inner);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.over.load(Ordering::Relaxed) {
                    return;
                }
                let (stream, inner) = (stream.unwrap(), Arc::clone(&serving));
                std::thread::spawn(move || serve(stream, &inner));
            }
        });
        Sink { address, inner, netns: netns.clone() }
    }

    /// These answers in turn before the usual one.
    pub fn answers(&self, answers: Vec<Answer>) {
        *self.inner.next.lock().unwrap() = answers;
    }

    pub fn usually(&self, answer: Answer) {
        *self.inner.usual.lock().unwrap() = Some(answer);
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.inner.asked.lock().unwrap().clone()
    }

    /// Waits until it was asked so often.
    pub fn until(&self, count: usize) -> Vec<Asked> {
        wait(&format!("{count} requests"), || match self.asked() {
            asked if asked.len() >= count => Ok(asked),
            asked => Err(format!("{} only", asked.len())),
        })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.inner.over.store(true, Ordering::Relaxed);
        let address = self.address;
        // The listener ends with the next connection.
        let _ = self.netns.run(|| TcpStream::connect(address));
    }
}

fn serve(stream: TcpStream, inner: &Inner) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let Some(asked) = read(&mut reader) else { return };
    inner.asked.lock().unwrap().push(asked);
    let answer = {
        let mut next = inner.next.lock().unwrap();
        match next.is_empty() {
            true => inner.usual.lock().unwrap().clone().unwrap_or_else(Answer::ok),
            false => next.remove(0),
        }
    };
    respond(stream, &answer);
}

fn respond(mut stream: TcpStream, answer: &Answer) {
    match answer {
        Answer::Status(status, body, headers) => {
            let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let text = format!(
                "HTTP/1.1 {status} Said\r\nContent-Length: {}\r\nConnection: close\r\n{more}\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(text.as_bytes());
        }
        Answer::Nothing => {}
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Asked { path, headers, body: String::from_utf8(body).ok()? })
}
