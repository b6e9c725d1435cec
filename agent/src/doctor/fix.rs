//! What `doctor --fix` changes in sing-box's configuration: the API that tells owners, on loopback,
//! with a secret. `plan` is pure; `apply` does it through `enforcer::editor`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    time::Duration,
};

use rand::RngExt as _;

use crate::{
    enforcer::{
        added::{self, Added},
        editor::{Applied, Edit, EditError, Editor},
    },
    singbox::{
        ProxyConfig,
        config::{LogOptions, Secret},
        files::{self, ConfigError, FileText},
        process::Process,
        splice::{self, Splice},
        tree::{self, Node, Value},
    },
    source::{self, Choice, NoSource, Setting, clash_logs, connect, singbox_api},
};

/// Ports that are tried, below those that Linux gives to outgoing connections (32768 and up).
const PORTS: std::ops::Range<u16> = 29_191..29_223;

/// Bytes of randomness in a secret; written in hexadecimal.
const SECRET_BYTES: usize = 32;

/// Why there is no fix.
#[derive(Debug, thiserror::Error)]
pub enum FixError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Edit(#[from] EditError),
    #[error("sing-box {0} is too old: boxmeter needs 1.12 or newer")]
    TooOld(String),
    #[error("which sing-box this is for is not known, since none is running: start it first")]
    NoVersion,
    #[error(
        "port {port} is taken in sing-box's network namespace ({error}); sing-box would end at the reload. Free it, or take another one"
    )]
    PortTaken { port: u16, error: std::io::Error },
    #[error("no port from {} to {} is free in sing-box's network namespace", PORTS.start, PORTS.end - 1)]
    NoPort,
    #[error("{file}: the key `{key}` is written twice, so that an edit would be a guess; leave one", file = file.display())]
    Repeated { file: PathBuf, key: String },
    #[error(
        "the edit does not read back as it was meant; nothing was written. This is a fault of boxmeter: please report it"
    )]
    ReadBack,
    #[error("{0}")]
    NoSource(#[from] NoSource),
}

/// What would be changed.
#[derive(Clone, Debug)]
pub struct Plan {
    pub edits: Vec<Edit>,
    /// Unified, without the secret.
    pub diff: String,
    /// What people must know before they say yes.
    pub warnings: Vec<String>,
    /// How the source is reached afterwards.
    pub choice: Choice,
    /// For taking it out again.
    pub added: Vec<Added>,
}

/// A new secret.
pub fn random_secret() -> Secret {
    let bytes: [u8; SECRET_BYTES] = rand::rng().random();
    Secret(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Is the port free for sing-box? `sing-box check` does not see a taken one, and the start with it
/// ends the process.
pub fn prove_free(port: u16, process: Option<&Process>) -> Result<(), FixError> {
    let bind = move || TcpListener::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)).map(drop);
    let bound = match process.and_then(Process::netns_path) {
        None => bind(),
        Some(netns) => std::thread::spawn(move || connect::in_netns(&netns, bind))
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("the thread that binds has failed"))),
    };
    bound.map_err(|error| FixError::PortTaken { port, error })
}

/// A free port that the configuration does not use.
pub fn free_port(config: &ProxyConfig, process: Option<&Process>) -> Result<u16, FixError> {
    let used = |port: &u16| config.inbounds.iter().any(|inbound| inbound.listen_port == Some(*port));
    PORTS.filter(|port| !used(port)).find(|&port| prove_free(port, process).is_ok()).ok_or(FixError::NoPort)
}

/// Plans the edit for a version; `None`: nothing to do. `port` must be free.
pub fn plan(
    files: &[FileText],
    version: (u32, u32),
    port: u16,
    secret: &Secret,
) -> Result<Option<Plan>, FixError> {
    if version < (1, 12) {
        return Err(FixError::TooOld(format!("{}.{}", version.0, version.1)));
    }
    let config = files::parse(files)?;
    let mut trees = Vec::new();
    for file in files {
        let (node, repeated) = tree::parse(&file.path, &file.text).map_err(ConfigError::from)?;
        let edited = ["services", "experimental", "clash_api", "log", "level", "disabled", "secret"];
        if let Some(key) = repeated.into_iter().find(|r| edited.contains(&r.key.to_lowercase().as_str())) {
            return Err(FixError::Repeated { file: key.file, key: key.key });
        }
        trees.push(node);
    }
    let edits = Edits { files, trees: &trees };
    let (setting, splices) = if version >= (1, 14) {
        (Setting::Api, edits.api(&config, port, secret))
    } else {
        (Setting::ClashLogs, edits.clash(&config, port, secret))
    };
    if splices.is_empty() {
        return Ok(None);
    }
    let (mut after, mut made, mut diff) = (files.to_vec(), Vec::new(), String::new());
    let mut added = Vec::new();
    for (at, file) in files.iter().enumerate() {
        let of_file: Vec<Splice> = splices.iter().filter(|(i, _)| *i == at).map(|(_, s)| s.clone()).collect();
        if of_file.is_empty() {
            continue;
        }
        let content = splice::apply(&file.text, &of_file);
        diff.push_str(&splice::diff(&file.path.display().to_string(), &file.text, &of_file, &secret.0));
        added.extend(added::note(file, &trees[at], &of_file, &secret.0));
        after[at].text.clone_from(&content);
        made.push(Edit {
            service: file.service.clone(),
            path: file.path.as_ref().clone(),
            expected: file.sha256,
            content,
        });
    }
    let read = files::parse(&after).map_err(|_| FixError::ReadBack)?;
    if read.inbounds.len() != config.inbounds.len() {
        return Err(FixError::ReadBack);
    }
    let choice = source::choose(&read, setting, Some(version))?;
    Ok(Some(Plan { edits: made, diff, warnings: warnings(&config, &read, setting), choice, added }))
}

fn warnings(before: &ProxyConfig, after: &ProxyConfig, setting: Setting) -> Vec<String> {
    let mut warnings = vec![
        "The reload that follows drops every open connection once; clients connect again by themselves."
            .to_owned(),
    ];
    if setting == Setting::ClashLogs && after.log.shows_info() {
        let place = match &after.log.output {
            Some(path) => path.display().to_string(),
            None => "standard error (the journal, under systemd)".to_owned(),
        };
        let already = if before.log.shows_info() { "already writes" } else { "will write" };
        warnings.push(format!(
            "At log level info sing-box {already} every user's destinations to {place}; sing-box 1.14 has an API that needs no log."
        ));
    }
    warnings
}

struct Edits<'a> {
    files: &'a [FileText],
    trees: &'a [Node],
}

/// Edits, each with its file's place.
type Found = Vec<(usize, Splice)>;

impl Edits<'_> {
    /// The file in which a value stands.
    fn file_of(&self, node: &Node) -> usize {
        self.files.iter().position(|file| file.path == node.file).unwrap_or(0)
    }

    /// The first value at these keys: of several files the first one wins.
    fn find(&self, keys: &[&str]) -> Option<&Node> {
        self.trees.iter().find_map(|tree| keys.iter().try_fold(tree, |node: &Node, key| node.get(key)))
    }

    /// The top of the file that has the inbounds: what is new goes there.
    fn home(&self) -> &Node {
        self.trees.iter().find(|tree| tree.get("inbounds").is_some()).unwrap_or(&self.trees[0])
    }

    /// Adds a property to an object, or takes the place of its `null` or empty text.
    fn put(&self, object: &Node, key: &str, value: &str) -> (usize, Splice) {
        let at = self.file_of(object);
        let splice = match present(object, key) {
            Some(old) => splice::replace(old, &value.replace('\t', "  ")),
            None => splice::insert_first(&self.files[at].text, object, &format!("\"{key}\": {value}")),
        };
        (at, splice)
    }

    fn api(&self, config: &ProxyConfig, port: u16, secret: &Secret) -> Found {
        let secret = quote(&secret.0);
        if config.api_service.is_some() {
            let mut services = self.trees.iter().filter_map(|tree| tree.get("services")?.array()).flatten();
            let service = services.find(|s| s.get("type").and_then(Node::str) == Some("api"));
            return service
                .filter(|s| !has_text(s, "secret"))
                .map(|s| self.put(s, "secret", &secret))
                .into_iter()
                .collect();
        }
        let entry = format!(
            "{{\n\t\"type\": \"api\",\n\t\"listen\": \"127.0.0.1\",\n\t\"listen_port\": {port},\n\t\"secret\": {secret}\n}}"
        );
        vec![match self.find(&["services"]) {
            Some(services) => {
                let at = self.file_of(services);
                (at, splice::insert_first(&self.files[at].text, services, &entry))
            }
            None => self.put(self.home(), "services", &format!("[\n\t{}\n]", entry.replace('\n', "\n\t"))),
        }]
    }

    fn clash(&self, config: &ProxyConfig, port: u16, secret: &Secret) -> Found {
        let (secret, controller) = (quote(&secret.0), format!("\"127.0.0.1:{port}\""));
        let new = format!("{{\n\t\"external_controller\": {controller},\n\t\"secret\": {secret}\n}}");
        let mut found = match (self.find(&["experimental", "clash_api"]), self.find(&["experimental"])) {
            // Two first properties would have no comma between them.
            (Some(clash), _) if matches!(&clash.value, Value::Object(entries) if entries.is_empty()) => {
                let at = self.file_of(clash);
                let both = format!("\"external_controller\": {controller},\n\"secret\": {secret}");
                vec![(at, splice::insert_first(&self.files[at].text, clash, &both))]
            }
            (Some(clash), _) => {
                let mut wanted = Vec::new();
                if config.clash_api.is_none() {
                    wanted.push(self.put(clash, "external_controller", &controller));
                }
                if !has_text(clash, "secret") {
                    wanted.push(self.put(clash, "secret", &secret));
                }
                wanted
            }
            (None, Some(experimental)) => vec![self.put(experimental, "clash_api", &new)],
            (None, None) => {
                let new = new.replace('\n', "\n\t");
                vec![self.put(self.home(), "experimental", &format!("{{\n\t\"clash_api\": {new}\n}}"))]
            }
        };
        if config.log.disabled
            && let Some(disabled) = self.find(&["log", "disabled"])
        {
            found.push((self.file_of(disabled), splice::replace(disabled, "false")));
        }
        if let Some(level) = self.find(&["log", "level"])
            && !(LogOptions { disabled: false, ..config.log.clone() }).shows_info()
        {
            found.push((self.file_of(level), splice::replace(level, "\"info\"")));
        }
        found
    }
}

fn has_text(object: &Node, key: &str) -> bool {
    object.get(key).and_then(Node::str).is_some_and(|text| !text.is_empty())
}

/// A property that is written, be it `null`.
fn present<'a>(object: &'a Node, key: &str) -> Option<&'a Node> {
    match &object.value {
        Value::Object(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
        _ => None,
    }
}

fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Everything up to the question: reads, chooses a port, plans. `None`: nothing to do.
pub fn prepare(singbox: &Editor, version: &str, port: Option<u16>) -> Result<Option<Plan>, FixError> {
    let version = crate::singbox::process::major_minor(version).ok_or(FixError::NoVersion)?;
    let files = files::read(&singbox.config)?;
    let config = files::parse(&files)?;
    let process = singbox.process.as_ref();
    let needs_port = match version {
        version if version >= (1, 14) => config.api_service.is_none(),
        _ => config.clash_api.is_none(),
    };
    let port = match port {
        Some(port) if needs_port => prove_free(port, process).map(|()| port)?,
        None if needs_port => free_port(&config, process)?,
        // The configuration has its own.
        _ => 0,
    };
    let plan = plan(&files, version, port, &random_secret())?;
    Ok(plan.map(|mut plan| {
        plan.choice = plan.choice.in_netns(process.and_then(Process::netns_path));
        plan
    }))
}

/// After the yes: check, swap, reload, see that the source answers; else back.
pub fn apply(singbox: &Editor, plan: &Plan) -> Result<Applied, FixError> {
    let before = singbox.added()?;
    singbox.set_added(&[before.as_slice(), &plan.added].concat())?;
    match singbox.apply(&plan.edits, || answers(&plan.choice).map(drop)) {
        Ok(applied) => Ok(applied),
        Err(error) => {
            singbox.set_added(&before)?;
            Err(error.into())
        }
    }
}

/// Does the source answer, with this secret? Its version. Blocks up to 5 s.
pub fn answers(choice: &Choice) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let ask = async {
        match choice {
            Choice::Api(endpoint) => {
                singbox_api::version(endpoint).await.map(|v| v.version).map_err(|e| e.to_string())
            }
            Choice::ClashLogs(endpoint) => clash_logs::version(endpoint).await.map_err(|e| e.to_string()),
            Choice::LogFile { path, .. } | Choice::AccessLog { path, .. } => match path.is_file() {
                true => Ok(String::new()),
                false => Err(format!("{} is no file", path.display())),
            },
        }
    };
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(5), ask)
            .await
            .unwrap_or_else(|_| Err("no answer within 5 s".into()))
    })
}
