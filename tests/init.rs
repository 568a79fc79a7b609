//! `alvus init`: what it asks, tries and writes.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Stdio;

use alvus::arguments::Arguments;
use alvus::init::{self, Given, Stopped};
use common::{Alvus, KEYS, TempDir, Upstream, alvus_command, answer, dead_addr};

/// The second key is refused.
fn provider() -> Upstream {
    Upstream::new(|seen| match seen.key_index() {
        1 => answer(401, "", "who?"),
        _ => answer(200, "Content-Type: application/json\r\n", "{\"data\":[]}"),
    })
}

/// Runs `alvus init` with these arguments and this on its standard input.
fn init(dir: &TempDir, args: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut child = alvus_command(dir)
        .arg("init")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end before it has read anything.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let out = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

fn hides_keys(text: &str) {
    for key in KEYS {
        assert!(!text.contains(&key[..key.len() - 5]), "{text}");
    }
}

#[test]
fn with_options_it_asks_nothing_and_writes_a_file_that_works() {
    let (upstream, dir) = (provider(), TempDir::new());
    let url = upstream.base_url();
    let (code, out, err) = init(&dir, &["--provider", &url], &KEYS.join("\n"));
    assert_eq!((code, &*err), (Some(0), ""));
    hides_keys(&out);
    assert!(
        out.contains("key 0 …1111: ok\n  key 1 …2222: rejected (401)\n"),
        "{out}"
    );
    let path = dir.0.join(".env");
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.contains(&format!("\nAPI_KEYS={},{}\n", KEYS[0], KEYS[2])),
        "{text}"
    );
    assert!(
        text.contains(&format!("\nTARGET_BASE_URL={url}\n")) && !text.contains("HOST"),
        "{text}"
    );
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        fs::read_dir(&dir.0).unwrap().count(),
        1,
        "nothing is left beside it"
    );
    let alvus = Alvus::launch(&["--env-file", path.to_str().unwrap()], &[]);
    assert_eq!(alvus.ask().status, 200);
    assert!(!alvus.log().contains("warn"), "{}", alvus.log());
}

#[test]
fn a_url_without_a_path_is_completed_or_remarked_on() {
    for (url, written, remark) in [
        (
            "https://api.openai.com",
            "https://api.openai.com/v1",
            "warn: TARGET_BASE_URL has no path; https://api.openai.com/v1 is used",
        ),
        (
            "http://127.0.0.1:9",
            "http://127.0.0.1:9",
            "most providers want http://127.0.0.1:9/v1",
        ),
    ] {
        let dir = TempDir::new();
        let (code, out, _) = init(&dir, &["--no-check", "--provider", url], KEYS[0]);
        assert!(code == Some(0) && out.contains(remark), "{out}");
        let text = fs::read_to_string(dir.0.join(".env")).unwrap();
        assert!(
            text.contains(&format!("TARGET_BASE_URL={written}\n")),
            "{text}"
        );
    }
}

#[test]
fn the_port_that_was_asked_for_is_written_and_told() {
    let dir = TempDir::new();
    let args = ["--provider", "groq", "--no-check", "--port", "8123"];
    let (code, out, _) = init(&dir, &args, KEYS[0]);
    assert_eq!(code, Some(0));
    assert!(
        out.contains("A client takes http://127.0.0.1:8123/v1,"),
        "{out}"
    );
    let text = fs::read_to_string(dir.0.join(".env")).unwrap();
    assert!(text.ends_with("\nPORT=8123\n"), "{text}");
    let program = std::env::var("ALVUS_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_alvus").into());
    assert!(
        out.contains(&format!("Start it:      {program}\n")),
        "as it was called: {out}"
    );
}

#[test]
fn a_file_that_is_there_stays_unless_it_is_forced() {
    let (upstream, dir) = (provider(), TempDir::new());
    let path = dir.write(".env", "PRECIOUS=1\n");
    let url = upstream.base_url();
    let (code, _, err) = init(&dir, &["--provider", &url], KEYS[0]);
    assert_eq!(code, Some(2));
    assert!(
        err.contains(".env is there already") && err.contains("--force"),
        "{err}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "PRECIOUS=1\n");
    let (code, ..) = init(&dir, &["--force", "--provider", &url], KEYS[0]);
    assert_eq!(code, Some(0));
    assert!(fs::read_to_string(&path).unwrap().contains(KEYS[0]));
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn what_is_no_regular_file_is_never_replaced() {
    let dir = TempDir::new();
    fs::create_dir(dir.0.join("folder")).unwrap();
    std::os::unix::fs::symlink("folder", dir.0.join("link")).unwrap();
    for path in ["folder", "link"] {
        let args = [
            "--env-file",
            path,
            "--force",
            "--no-check",
            "--provider",
            "groq",
        ];
        let (code, _, err) = init(&dir, &args, KEYS[0]);
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains("is not a regular file"), "{err}");
        assert!(fs::symlink_metadata(dir.0.join(path)).is_ok_and(|it| !it.is_file()));
    }
    assert_eq!(
        fs::read_dir(&dir.0).unwrap().count(),
        2,
        "no file with keys is left"
    );
}

#[test]
fn a_file_that_is_replaced_keeps_its_owner() {
    let dir = TempDir::new();
    let path = dir.write(".env", "");
    if chown(&path, Some(4321), None).is_err() {
        return; // takes root
    }
    let args = ["--provider", "groq", "--no-check", "--force"];
    let (code, ..) = init(&dir, &args, KEYS[0]);
    let file = fs::metadata(&path).unwrap();
    assert_eq!(
        (code, file.uid(), file.mode() & 0o777),
        (Some(0), 4321, 0o600)
    );
}

#[test]
fn nothing_is_written_when_no_key_works_or_none_is_one() {
    let dir = TempDir::new();
    let url = format!("http://{}/v1", dead_addr());
    for (args, input, code, words) in [
        (
            vec!["--provider", &url],
            KEYS[0],
            1,
            "no key works, so nothing was written",
        ),
        (
            vec!["--provider", &url],
            "",
            2,
            "no key was given: type them",
        ),
        (
            vec!["--provider", &url],
            "a;b",
            2,
            "what you typed: key 1 of 1 holds a semicolon",
        ),
        (
            vec!["--provider", &url, "--port", "x"],
            "a",
            2,
            "PORT (--port): found",
        ),
        (
            vec!["--provider", "nobody"],
            KEYS[0],
            2,
            "expected one of NVIDIA NIM, OpenAI",
        ),
    ] {
        let (found, out, err) = init(&dir, &args, input);
        assert_eq!((found, err.lines().count()), (Some(code), 1), "{err}");
        assert!(err.contains(words), "{err}");
        hides_keys(&(out + &err));
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
    }
    let (code, ..) = init(&dir, &["--provider", &url, "--no-check"], KEYS[0]);
    assert_eq!(code, Some(0));
}

#[test]
fn for_the_network_it_makes_a_client_key_which_it_does_not_print() {
    let dir = TempDir::new();
    let args = ["--provider", "anthropic", "--lan", "--no-check"];
    let (code, out, _) = init(&dir, &args, KEYS[0]);
    assert_eq!(code, Some(0));
    let text = fs::read_to_string(dir.0.join(".env")).unwrap();
    let (_, key) = text.split_once("\nCLIENT_KEYS=home:").unwrap();
    let key = key.lines().next().unwrap();
    assert!(key.len() == 32 && !out.contains(key), "{out}");
    let name = rustix::system::uname();
    let name = name.nodename().to_str().unwrap().to_ascii_lowercase();
    assert!(
        text.contains(&format!("\nALLOWED_HOSTS={name},{name}.local\n")),
        "{text}"
    );
    assert!(
        out.contains(&format!("http://{name}.local:3000/v1")),
        "{out}"
    );
    assert!(
        text.contains("\nHOST=0.0.0.0\n") && text.contains("\nKEY_HEADER=x-api-key\n"),
        "{text}"
    );
}

/// What it says to these answers at a terminal, and how it ends.
fn talk(dir: &TempDir, answers: &str) -> (String, Result<(), Stopped>) {
    let path = dir.0.join(".env").into_os_string();
    let arguments = Arguments::parse(["init".into(), "--env-file".into(), path]).unwrap();
    let given = Given {
        arguments: &arguments,
        keys: None,
        program: "target/release/alvus".into(),
        asks: true,
    };
    let mut said = Vec::new();
    let done = init::run(&given, &mut answers.as_bytes(), &mut said);
    (String::from_utf8(said).unwrap(), done)
}

#[test]
fn at_a_terminal_it_asks_until_it_can_go_on() {
    let (upstream, dir) = (provider(), TempDir::new());
    let answers = format!(
        "nobody\n{}\n\"{}\"\n\n{}\n{}\n\nyes\n",
        upstream.base_url(),
        KEYS[0],
        KEYS[0],
        KEYS[2]
    );
    let (said, done) = talk(&dir, &answers);
    done.unwrap();
    hides_keys(&said);
    for words in [
        "  3  Groq         https://api.groq.com/openai/v1\n",
        "That is none of them",
        "holds a quote; write keys without quotes",
        "key 0 …1111: ok\n  key 1 …3333: ok\n",
        "Wrote ",
        "follows home: in ",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let text = fs::read_to_string(dir.0.join(".env")).unwrap();
    assert!(
        text.contains(&format!("{},{}", KEYS[0], KEYS[2])) && text.contains("CLIENT_KEYS=home:")
    );
}

#[test]
fn nothing_is_written_if_the_answers_stop() {
    let dead = format!("http://{}/v1", dead_addr());
    for answers in [
        "".to_owned(),
        "1\n".to_owned(),
        format!("{dead}\n{}\n\nn\n", KEYS[0]),
    ] {
        let dir = TempDir::new();
        let (said, done) = talk(&dir, &answers);
        assert!(done.is_err(), "{said}");
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
    }
}

#[test]
fn a_provider_that_is_away_can_be_written_all_the_same() {
    let dir = TempDir::new();
    let dead = format!("http://{}/v1", dead_addr());
    let (said, done) = talk(&dir, &format!("{dead}\n{}\n\ny\n\n", KEYS[0]));
    done.unwrap();
    assert!(said.contains("None of them works."), "{said}");
}
