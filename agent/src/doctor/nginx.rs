//! What is not well with an nginx of `[[service]]`, and what to do: whether its totals can be read and are of users,
//! and whether it asks boxmeter's file. `gather` reads; `check` is pure over what was read.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::check::{Finding, Severity, finding};
use crate::{
    config::{Config, Service},
    daemon::nginx_of,
    enforcer::nginx::{Found, Master},
    source::vts::{self, Url},
};

/// nginx answers in milliseconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What names the user of a location.
const KEY: &str = "vhost_traffic_status_filter_by_set_key";

/// What has the module keep its totals in a file.
const DUMP_DIRECTIVE: &str = "vhost_traffic_status_dump";

/// What was read of one.
#[derive(Debug)]
pub struct Facts {
    pub name: Arc<str>,
    /// How many users its totals are of.
    pub status: Result<usize, String>,
    /// Its master process, and why others are none.
    pub found: Result<Found, String>,
    /// The file of refused users, where one is configured; whether it is there.
    pub refuse: Option<(PathBuf, Result<bool, String>)>,
    /// The configuration that nginx would read, where its process was found.
    pub dump: Option<Result<String, String>>,
    /// Its users, where they are listed.
    pub named: Vec<String>,
}

/// Reads what there is of all of them.
pub fn gather(config: &Config) -> Vec<Facts> {
    let one = |service: &Service| {
        let nginx = nginx_of(service, config);
        let found = nginx.look().map_err(|error| error.to_string());
        let dump = |master: &Master| nginx.dump(master).map_err(|error| error.to_string());
        let refuse = (!service.refuse.as_os_str().is_empty()).then(|| {
            let is_own = nginx.refused().map(|_| service.refuse.exists()).map_err(|error| error.to_string());
            (service.refuse.clone(), is_own)
        });
        Facts {
            name: service.identity().name,
            status: users(&service.status),
            dump: found.as_ref().ok().and_then(|found| found.master.as_ref()).map(dump),
            found,
            refuse,
            named: service.users.clone(),
        }
    };
    config.services.iter().filter(|service| service.is_nginx()).map(one).collect()
}

fn users(status: &str) -> Result<usize, String> {
    let url = Url::parse(status).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let read = runtime.block_on(async { tokio::time::timeout(ANSWER_LIMIT, vts::read(&url, None)).await });
    let reading = read.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())?;
    let names: std::collections::BTreeSet<_> =
        reading.counters.iter().map(|counter| &counter.name).filter(|name| !name.is_empty()).collect();
    Ok(names.len())
}

/// All findings, the good ones too.
pub fn check(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![status(facts)];
    found.extend(process(facts));
    found.extend(refuse(facts));
    match &facts.dump {
        None => {}
        Some(Err(error)) => found.push(finding(
            "service-config",
            Severity::Fail,
            format!("{}: nginx does not take its configuration, or must not be asked", facts.name),
            error,
            "Correct what the text names; until then nginx goes on refusing whom it refuses now, and nobody else.",
        )),
        Some(Ok(text)) => {
            found.push(keys(facts, text));
            found.extend(kept(facts, text));
            found.extend(facts.refuse.as_ref().map(|(file, _)| asked(facts, file, text)));
        }
    }
    found
}

fn status(facts: &Facts) -> Finding {
    let name = &facts.name;
    match &facts.status {
        Ok(0) => finding(
            "service-totals",
            Severity::Warn,
            format!("{name}: its totals can be read, and are nobody's"),
            "It has counted under no user's name.",
            format!(
                "That is well as long as nobody has come since nginx began; else see that {KEY} names users."
            ),
        ),
        Ok(users) => {
            let title = format!("{name}: its totals can be read");
            finding("service-totals", Severity::Ok, title, format!("of {users} users"), "")
        }
        Err(error) => finding(
            "service-totals",
            Severity::Fail,
            format!("{name}: its totals cannot be read, so that nothing is counted"),
            error,
            "`status` of its [[service]] is the address of `vhost_traffic_status_display` with /format/json at its end.",
        ),
    }
}

fn process(facts: &Facts) -> Option<Finding> {
    let name = &facts.name;
    let fail = |detail: String, what: &str| {
        finding(
            "service-process",
            Severity::Fail,
            format!("{name}: nginx cannot be told whom to refuse"),
            detail,
            what,
        )
    };
    match &facts.found {
        Ok(Found { master: Some(master), .. }) => {
            let title = format!("{name}: nginx is running");
            Some(finding("service-process", Severity::Ok, title, format!("pid {}", master.pid), ""))
        }
        // It may be on another machine, where it is only counted.
        _ if facts.refuse.is_none() => None,
        Ok(Found { ignored, .. }) if ignored.is_empty() => Some(fail(
            "no master process was found".to_owned(),
            "Start nginx on this machine; where it runs, name its `pid_file`.",
        )),
        Ok(Found { ignored, .. }) => Some(fail(
            ignored.join("; "),
            "nginx's master process must be root's, and its executable nobody else's to change.",
        )),
        Err(error) => Some(fail(error.clone(), "Name the `pid_file` of the one that is meant.")),
    }
}

fn refuse(facts: &Facts) -> Option<Finding> {
    let name = &facts.name;
    match &facts.refuse {
        None => Some(finding(
            "service-refuse",
            Severity::Warn,
            format!("{name}: nginx refuses nobody"),
            "Users over quota are shown as such, and go on.",
            "Set `refuse` in its [[service]], and include that file in nginx's configuration.",
        )),
        Some((_, Err(error))) => Some(finding(
            "service-refuse",
            Severity::Fail,
            format!("{name}: the file of refused users cannot be written"),
            error,
            "Name another file in `refuse`; boxmeter makes it.",
        )),
        Some((file, Ok(false))) => Some(finding(
            "service-refuse",
            Severity::Warn,
            format!("{name}: the file of refused users is not there yet"),
            file.display().to_string(),
            "The agent makes it when it runs; nginx does not start with an include that is not there.",
        )),
        Some((_, Ok(true))) => None,
    }
}

/// Is the file included, and asked where users come in?
fn asked(facts: &Facts, file: &Path, dump: &str) -> Finding {
    let name = &facts.name;
    let fail = |title: String, what: String| {
        let detail = "Whoever may not connect is not refused.";
        finding("service-refuse-asked", Severity::Fail, title, detail, what)
    };
    let same = |path: &str| {
        Path::new(path) == file
            || fs::canonicalize(path).is_ok_and(|it| fs::canonicalize(file).is_ok_and(|own| own == it))
    };
    let (mut is_included, mut is_own, mut rest) = (false, false, String::new());
    for line in dump.lines() {
        let path = line.strip_prefix("# configuration file ").and_then(|path| path.strip_suffix(':'));
        if let Some(path) = path {
            is_own = same(path);
            is_included |= is_own;
        } else if !is_own {
            rest.push_str(without_comment(line));
            rest.push('\n');
        }
    }
    let file = file.display();
    if !is_included {
        let title = format!("{name}: nginx does not include {file}");
        return fail(title, format!("Put `include {file};` into its `http` block, and reload it."));
    }
    if !rest.contains("$boxmeter_refused") || !rest.contains("$boxmeter_user") {
        return fail(
            format!("{name}: no location of nginx's asks who is refused"),
            "Put `set $boxmeter_user NAME;` and `if ($boxmeter_refused) { return 403; }` into each user's location."
                .to_owned(),
        );
    }
    let title = format!("{name}: nginx asks who is refused");
    finding("service-refuse-asked", Severity::Ok, title, format!("{file} is included"), "")
}

/// Does nginx keep its totals over a restart?
fn kept(facts: &Facts, dump: &str) -> Option<Finding> {
    let mut lines = dump.lines().map(without_comment);
    let line = lines.find(|line| line.split_ascii_whitespace().next() == Some(DUMP_DIRECTIVE))?;
    let title =
        format!("{}: nginx keeps its totals over a restart; only what they grow by is counted", facts.name);
    Some(finding("service-totals-kept", Severity::Ok, title, line.trim(), ""))
}

/// Of a user, and of no group that is counted over all users: as the module's documentation calls countries and the
/// like, whose keys are nobody's.
fn is_counted((_, group): &(String, String)) -> bool {
    !group.ends_with("::*")
}

/// Do its keys name users, and who chooses the name?
fn keys(facts: &Facts, dump: &str) -> Finding {
    let name = &facts.name;
    let (all, starred): (Vec<_>, Vec<_>) = set_keys(dump).into_iter().partition(is_counted);
    let is_users = |(_, group): &&(String, String)| {
        let head = group.strip_suffix("::*").unwrap_or_default();
        head == "users" || facts.named.iter().any(|named| named == head)
    };
    if let Some((key, group)) = starred.iter().find(is_users) {
        return finding(
            "service-keys",
            Severity::Fail,
            format!("{name}: what is counted under {group} is nobody's"),
            format!("{KEY} {key} {group}"),
            "A group that ends with ::* is over all users, as countries are. Write $server_name instead of the *.",
        );
    }
    if all.is_empty() {
        return finding(
            "service-keys",
            Severity::Fail,
            format!("{name}: nginx counts no users"),
            format!("Its configuration has no {KEY}."),
            format!("Put `{KEY} $uri NAME::$server_name;` into each user's location."),
        );
    }
    // The user's name, by what nginx has it from.
    let user = |(key, group): &(String, String)| match group.split_once("::") {
        Some(("users", _)) => key.clone(),
        Some((head, _)) => head.to_owned(),
        None => group.clone(),
    };
    let nameless = all.iter().find(|(_, group)| group.is_empty());
    let chosen = all.iter().map(user).find(|user| user.contains('$'));
    let warn = |title: String, detail: String, what: &str| {
        finding("service-keys", Severity::Warn, title, detail, what)
    };
    match (nameless, chosen) {
        (Some((key, _)), _) => warn(
            format!("{name}: keys without a group are nobody's"),
            format!("{KEY} {key}"),
            "Give it a group that names the user, as `NAME::$server_name`.",
        ),
        (None, Some(user)) if facts.named.is_empty() => warn(
            format!("{name}: whoever chooses {user} chooses who pays"),
            "A user's name comes from a variable. Where that is what a client sends, he can blame another user, and \
             make new ones."
                .to_owned(),
            "List `users` in its [[service]], and take the name from what nginx has checked, as $remote_user or $ssl_client_s_dn_cn.",
        ),
        _ => {
            let title = format!("{name}: its keys name users");
            finding("service-keys", Severity::Ok, title, format!("{} of {KEY}", all.len()), "")
        }
    }
}

/// Key and group of each directive.
fn set_keys(dump: &str) -> Vec<(String, String)> {
    let text: Vec<&str> = dump.lines().map(without_comment).collect();
    let text = text.join("\n");
    let words = |rest: &str| {
        let directive = rest.split(';').next().unwrap_or_default();
        let words = directive.split_ascii_whitespace().map(|word| word.trim_matches(['"', '\'']).to_owned());
        words.collect::<Vec<_>>()
    };
    let directives = text.split(KEY).skip(1).map(words);
    let pair = |words: Vec<String>| {
        let mut words = words.into_iter();
        Some((words.next()?, words.next().unwrap_or_default()))
    };
    directives.filter_map(pair).collect()
}

fn without_comment(line: &str) -> &str {
    match line.find('#') {
        Some(at) if at == 0 || line[..at].ends_with([' ', '\t', ';', '{', '}']) => &line[..at],
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "# configuration file /etc/nginx/nginx.conf:\nhttp {\n    include /etc/nginx/boxmeter.conf;\n\
        # configuration file /etc/nginx/boxmeter.conf:\nmap $boxmeter_user $boxmeter_refused {\n}\n\
        # configuration file /etc/nginx/sites-enabled/a:\nlocation /a/ { set $boxmeter_user a; \
        if ($boxmeter_refused) { return 403; }\n vhost_traffic_status_filter_by_set_key $uri a::$server_name; }\n";

    fn found(dump: &str, change: impl FnOnce(&mut Facts)) -> Vec<(&'static str, Severity)> {
        let mut facts = Facts {
            name: "nginx".into(),
            status: Ok(2),
            found: Ok(Found::default()),
            refuse: Some(("/etc/nginx/boxmeter.conf".into(), Ok(true))),
            dump: Some(Ok(dump.to_owned())),
            named: vec![],
        };
        change(&mut facts);
        let all = check(&facts);
        for finding in &all {
            assert_eq!(finding.what_to_do.is_empty(), finding.severity == Severity::Ok, "{finding:?}");
        }
        all.into_iter().map(|finding| (finding.id, finding.severity)).collect()
    }

    #[test]
    fn what_is_not_well_with_nginx_is_found() {
        use Severity::{Fail, Ok as Good, Warn};
        let good = found(DUMP, |_| {});
        for expected in [
            ("service-totals", Good),
            ("service-keys", Good),
            ("service-refuse-asked", Good),
            ("service-process", Fail),
        ] {
            assert!(good.contains(&expected), "{expected:?}: {good:?}");
        }
        let with = |text: &str, expected| {
            let found = found(text, |_| {});
            assert!(found.contains(&expected), "{expected:?}: {found:?}");
        };
        with(&DUMP.replace("file /etc/nginx/boxmeter.conf:", "file /etc/x:"), ("service-refuse-asked", Fail));
        with(
            &DUMP.replace("if ($boxmeter_refused)", "# if ($boxmeter_refused)"),
            ("service-refuse-asked", Fail),
        );
        with(&DUMP.replace("$uri a::$server_name", "$uri $arg_u::$server_name"), ("service-keys", Warn));
        with(
            &DUMP.replace("$uri a::$server_name", "$remote_user users::$server_name"),
            ("service-keys", Warn),
        );
        with(&DUMP.replace("$uri a::$server_name", "$uri"), ("service-keys", Warn));
        with(&DUMP.replace("$uri a::$server_name", "a users::$server_name"), ("service-keys", Good));
        with(&DUMP.replace(" vhost_traffic", " # vhost_traffic"), ("service-keys", Fail));
        let named = DUMP.replace("$uri a::", "$uri $remote_user::");
        assert!(found(&named, |facts| facts.named = vec!["a".to_owned()]).contains(&("service-keys", Good)));
        // As the module's documentation writes countries: nobody is counted.
        let starred = |group: &str| DUMP.replace("a::$server_name", group);
        with(&starred("users::*"), ("service-keys", Fail));
        with(&starred("alice::*"), ("service-keys", Fail));
        let countries = DUMP.replace(
            "vhost_traffic_status_filter_by_set_key $uri",
            "vhost_traffic_status_filter_by_set_key $country country::*; vhost_traffic_status_filter_by_set_key $uri",
        );
        with(&countries, ("service-keys", Good));
        let listed = |text: &str| found(text, |facts| facts.named = vec!["country".to_owned()]);
        assert!(listed(&countries).contains(&("service-keys", Fail)), "he is called so");
        assert!(found(DUMP, |facts| facts.status = Ok(0)).contains(&("service-totals", Warn)));
        with(&format!("{DUMP} vhost_traffic_status_dump /var/log/vts.db;\n"), ("service-totals-kept", Good));
        assert!(!good.iter().any(|(id, _)| *id == "service-totals-kept"));
        // One that is only counted, and elsewhere.
        let counted = found(DUMP, |facts| (facts.refuse, facts.dump) = (None, None));
        assert_eq!(counted, [("service-totals", Good), ("service-refuse", Warn)]);
        let no = || "no".to_owned();
        assert!(found(DUMP, |facts| facts.status = Err(no())).contains(&("service-totals", Fail)));
        assert!(found(DUMP, |facts| facts.dump = Some(Err(no()))).contains(&("service-config", Fail)));
        let file = |state| found(DUMP, |facts| facts.refuse = Some(("/etc/b".into(), state)));
        assert!(file(Err(no())).contains(&("service-refuse", Fail)));
        assert!(file(Ok(false)).contains(&("service-refuse", Warn)));
    }
}
