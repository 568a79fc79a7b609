//! `alvus status`: asks a running alvus for its `/health` and makes a table of the answer.
//!
//! It asks where the same configuration would start an alvus. It changes nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::config::Config;

/// Long, as `/health` never waits.
const PATIENCE: Duration = Duration::from_secs(5);
/// Three quarters of this are 256 keys that are not ready for any of 16 models with the longest names.
const LARGEST_PAGE: usize = 1024 * 1024;
/// Time between two looks of `--watch`.
const PAUSE: Duration = Duration::from_secs(2);

/// Why there is no page of health, in the operator's words.
#[derive(Debug)]
pub struct NoHealth(pub String);

/// The `/health` of a running alvus, as text and parsed. `name`: its machine, if HOST is not an address.
///
/// # Errors
/// When no alvus answers.
pub fn health(config: &Config, name: Option<&str>) -> Result<(String, Value), NoHealth> {
    if config.port == 0 {
        let text = "PORT is 0, so alvus listens on any free port; say which with --port";
        return Err(NoHealth(text.into()));
    }
    let at = match name {
        Some(name) => format!("{name}:{}", config.port),
        None => address(config).to_string(),
    };
    let page = get(&at, config).map_err(|e| {
        let why = match e.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => {
                format!("no answer in {} s", PATIENCE.as_secs())
            }
            _ => e.to_string(),
        };
        NoHealth(format!(
            "no alvus answers on {at}: {why} (is it running? HOST and PORT say where)"
        ))
    })?;
    let foreign = || NoHealth(format!("what answers on {at} is not alvus"));
    let text = String::from_utf8(page).map_err(|_| foreign())?;
    let (_, body) = text.split_once("\r\n\r\n").ok_or_else(foreign)?;
    let page: Value = serde_json::from_str(body).map_err(|_| foreign())?;
    match (&page["status"], &page["error"]["message"]) {
        (Value::String(_), _) => Ok((body.to_owned(), page)),
        (_, Value::String(message)) => Err(NoHealth(format!("alvus on {at}: {}", plain(message)))),
        _ => Err(foreign()),
    }
}

/// Waits until it is time to look again.
pub fn pause() {
    std::thread::sleep(PAUSE);
}

/// The address of an alvus with this configuration, from its own machine.
fn address(config: &Config) -> SocketAddr {
    let ip = match config.host {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, config.port)
}

/// Asks the first of the host's addresses that takes a connection.
fn get(host: &str, config: &Config) -> std::io::Result<Vec<u8>> {
    let all = host.to_socket_addrs()?;
    let until = Instant::now() + PATIENCE;
    let mut stream = Err(ErrorKind::NotFound.into());
    for addr in all {
        stream = TcpStream::connect_timeout(&addr, PATIENCE);
        if stream.is_ok() {
            break;
        }
    }
    let mut stream = stream?;
    let mut request = format!("GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    // Any client's key will do. On an address of the network one is needed even from here.
    if let Some(client) = config.client_keys.first() {
        request += &format!("x-api-key: {}\r\n", client.key.expose());
    }
    request += "\r\n";
    stream.write_all(request.as_bytes())?;
    let (mut page, mut piece) = (Vec::new(), [0; 4096]);
    while page.len() < LARGEST_PAGE {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece)? {
            0 => break,
            n => page.extend_from_slice(&piece[..n]),
        }
    }
    Ok(page)
}

/// Whether any key can serve.
pub fn is_up(page: &Value) -> bool {
    page["status"] != "down"
}

/// The page as a table, with `colours` or without; ends with a line break.
pub fn table(page: &Value, colours: bool) -> String {
    let status = word(&page["status"]);
    let Some(keys) = page["key_status"].as_array() else {
        return format!("alvus: {status} (it says no more without one of its CLIENT_KEYS)\n");
    };
    let mut out = format!("alvus {}: {status}", word(&page["version"]));
    let up = page["uptime_sec"].as_u64().unwrap_or_default();
    out += &format!(
        ", up {} d {} h {} min, {} in flight, {} waiting\n\n",
        up / 86_400,
        up / 3600 % 24,
        up / 60 % 60,
        word(&page["in_flight"]),
        word(&page["waiting"])
    );
    let head = [
        "KEY",
        "",
        "STATE",
        "REQUESTS",
        "LIMITED",
        "REFUSED",
        "NO ANSWER",
        "IN FLIGHT",
        "LAST USED",
    ];
    columns(&mut out, &head, keys.iter().map(row).collect(), colours);
    let (listed, all) = (keys.len() as u64, page["keys"].as_u64().unwrap_or_default());
    if all > listed {
        out += &format!("and {} keys more\n", all - listed);
    }
    if let Some(clients) = page["clients"].as_array() {
        out.push('\n');
        let rows = clients
            .iter()
            .map(|c| vec![word(&c["name"]), word(&c["requests"])]);
        columns(&mut out, &["CLIENT", "REQUESTS"], rows.collect(), false);
    }
    out
}

/// A key's row.
fn row(key: &Value) -> Vec<String> {
    let failures = &key["failures"];
    let state = match key["seconds_left"].as_u64() {
        Some(left) if left > 0 => format!("{} {}", word(&key["state"]), span(left)),
        _ => word(&key["state"]),
    };
    let used = match key["last_used_sec_ago"].as_u64() {
        Some(age) => format!("{} ago", span(age)),
        None => "never".into(),
    };
    vec![
        word(&key["index"]),
        word(&key["label"]),
        state,
        word(&key["requests"]),
        word(&failures["limited"]),
        word(&failures["refused"]),
        word(&failures["no_answer"]),
        word(&key["in_flight"]),
        used,
    ]
}

/// Writes columns as wide as their widest cell. The third is a state, in its colour.
fn columns(out: &mut String, head: &[&str], mut rows: Vec<Vec<String>>, colours: bool) {
    rows.insert(0, head.iter().map(ToString::to_string).collect());
    let wide = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(wide).collect();
    for row in &rows {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let colour = match cell.as_bytes() {
                [b'r', b'e', b'a', ..] => "\x1b[32m",
                [b'c', b'o', ..] | [b'p', b'a', ..] => "\x1b[33m",
                [b'e', b'j', ..] => "\x1b[31m",
                _ => "",
            };
            let coloured = colours && at == 2 && !colour.is_empty();
            if coloured {
                line += colour;
            }
            line += cell;
            if coloured {
                line += "\x1b[0m";
            }
            let gap = widths[at] - cell.chars().count() + 2;
            line.extend(std::iter::repeat_n(' ', gap));
        }
        *out += line.trim_end();
        out.push('\n');
    }
}

/// A time in a unit that leaves about two digits.
fn span(seconds: u64) -> String {
    match seconds {
        0..600 => format!("{seconds} s"),
        600..36_000 => format!("{} min", seconds / 60),
        36_000..864_000 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A value as a word.
fn word(value: &Value) -> String {
    match value {
        Value::String(text) => plain(text),
        Value::Null => "-".into(),
        Value::Bool(yes) => yes.to_string(),
        // alvus itself writes no other numbers.
        other => other.as_u64().map_or("?".into(), |n| n.to_string()),
    }
}

/// A text without characters that move the terminal's cursor.
fn plain(text: &str) -> String {
    text.replace(char::is_control, "?")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Value {
        serde_json::json!({
            "status": "degraded", "version": "0.1.0", "uptime_sec": 93_784, "in_flight": 1, "waiting": 2,
            "clients": [{"name": "phone", "requests": 12}],
            "key_status": [
                {"index": 0, "label": "…f9a1", "state": "ready", "seconds_left": 0, "requests": 512,
                 "failures": {"limited": 9, "refused": 0, "no_answer": 1}, "in_flight": 1, "last_used_sec_ago": 0},
                {"index": 1, "label": "…b002", "state": "cooling", "seconds_left": 42, "requests": 7,
                 "failures": {"limited": 1}, "in_flight": 0, "last_used_sec_ago": null},
                {"index": 2, "label": "\u{1b}[2J", "state": "ejected", "requests": 1},
                {"index": 3, "label": "…d004", "state": "parked", "seconds_left": 82_000, "requests": 3,
                 "failures": {"limited": 0}, "in_flight": 0, "last_used_sec_ago": 4000},
            ]
        })
    }

    #[test]
    fn the_table_has_a_row_for_each_key_and_each_client() {
        let expected = "\
alvus 0.1.0: degraded, up 1 d 2 h 3 min, 1 in flight, 2 waiting

KEY         STATE         REQUESTS  LIMITED  REFUSED  NO ANSWER  IN FLIGHT  LAST USED
0    …f9a1  ready         512       9        0        1          1          0 s ago
1    …b002  cooling 42 s  7         1        -        -          0          never
2    ?[2J   ejected       1         -        -        -          -          never
3    …d004  parked 22 h   3         0        -        -          0          66 min ago

CLIENT  REQUESTS
phone   12
";
        assert_eq!(table(&page(), false), expected);
    }

    #[test]
    fn colours_are_for_states_only_and_change_no_width() {
        let coloured = table(&page(), true);
        for state in [
            "\x1b[32mready\x1b[0m",
            "\x1b[33mcooling 42 s\x1b[0m",
            "\x1b[31mejected\x1b[0m",
            "\x1b[33mparked 22 h\x1b[0m",
        ] {
            assert!(coloured.contains(state), "{coloured}");
        }
        let mut bare = coloured;
        for code in ["\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[0m"] {
            bare = bare.replace(code, "");
        }
        assert_eq!(bare, table(&page(), false));
    }

    #[test]
    fn a_page_that_says_its_status_only_is_explained() {
        let brief = serde_json::json!({"status": "ok"});
        let text = table(&brief, true);
        assert!(
            text.starts_with("alvus: ok (") && text.contains("CLIENT_KEYS"),
            "{text}"
        );
        assert!(is_up(&brief) && !is_up(&serde_json::json!({"status": "down"})));
    }
}
