//! The text of a state file, and the file.

use super::*;

const SALTED: [u8; SALT] = [7; SALT];
const NOW: u64 = 1_790_000_000;

fn rest(now: Instant, secs: u64, model: &str) -> SavedRest {
    SavedRest {
        key: [0xab; 8],
        model: model.to_owned(),
        until: now + Duration::from_secs(secs),
    }
}

/// A file in a folder of its own.
fn file(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("alvus-state-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    folder.join("state")
}

/// Keeps one rest, and says what a later alvus complains of and finds.
fn kept_and_found(path: &Path) -> (Option<String>, usize) {
    let now = Instant::now();
    let (mut file, _, complaint) = StateFile::open(path.to_owned(), SALTED, now);
    file.keep(vec![rest(now, 3600, "m")], now).expect("written");
    let found = StateFile::open(path.to_owned(), SALTED, now).1;
    (complaint, found.len())
}

#[test]
fn a_written_file_is_read_back_and_time_off_counts_if_the_clock_was_set() {
    let now = Instant::now();
    let rests = [
        rest(now, 90, "m"),
        rest(now, 7200, "a b%20/é"),
        rest(now, 50, ""),
    ];
    for (written, read, left) in [
        (NOW, NOW, &[90, 7200, 50][..]),
        (NOW, NOW + 60, &[30, 7140]),
        (NOW, NOW + 1_000_000, &[]),
        (NOW, NOW - 1, &[90, 7200, 50]), // backwards
        (NOW, 12, &[90, 7200, 50]),      // 1970 after the restart
        (12, NOW, &[90, 7200, 50]),      // 1970 before it
    ] {
        let text = to_text(&SALTED, &rests, now, written);
        let (salt, found, damaged) = from_text(&text, now, read).expect("ours");
        assert_eq!((salt, damaged), (SALTED, false));
        let found: Vec<u64> = found.iter().map(|r| (r.until - now).as_secs()).collect();
        assert_eq!(found, left, "{written} {read}");
    }
    let text = to_text(
        &SALTED,
        &[rest(now, 9, "two\nlines"), rest(now, 9, &"x".repeat(999))],
        now,
        NOW,
    );
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn every_cut_and_every_damaged_byte_costs_a_line_at_most() {
    let now = Instant::now();
    let text = to_text(
        &SALTED,
        &[rest(now, 90, "m"), rest(now, 7200, "n")],
        now,
        NOW,
    );
    let begin = text.find('\n').expect("lines") + 1;
    for at in begin..text.len() {
        let (_, found, damaged) = from_text(&text[..at], now, NOW).expect("ours");
        let whole = text[begin..at].matches('\n').count();
        assert_eq!(
            (found.len(), damaged),
            (whole, !text[..at].ends_with('\n')),
            "cut at {at}"
        );
        let mut bytes = text.clone().into_bytes();
        if bytes[at] == b'\n' {
            continue; // makes one line of two
        }
        bytes[at] = b'?';
        let found = from_text(&String::from_utf8_lossy(&bytes), now, NOW)
            .expect("ours")
            .1;
        assert!(
            found.contains(&rest(now, 90, "m")) || found.contains(&rest(now, 7200, "n")),
            "{at}"
        );
    }
    for foreign in [
        "",
        "API_KEYS=a,b\n",
        "alvus-state 2 salt=00\n",
        "alvus-state 1 salt=00 clock=x\n",
    ] {
        assert_eq!(from_text(foreign, now, NOW), None, "{foreign}");
    }
}

#[test]
fn only_what_changed_and_lasts_is_written_and_others_cannot_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let (path, now) = (file("news"), Instant::now());
    let (mut state, ..) = StateFile::open(path.clone(), SALTED, now);
    let (short, long, later) = (
        rest(now, 20, "s"),
        rest(now, 3600, "l"),
        now + Duration::from_secs(3590),
    );
    for (rests, at, written) in [
        (vec![short.clone()], now, false),
        (vec![long.clone()], now, true),
        (vec![long.clone(), short.clone()], now, false),
        (vec![rest(now, 3609, "l")], now, true),
        (vec![], now, true), // a reload ended it
        (vec![long.clone()], now, true),
        (vec![], later, false), // it ends by itself
    ] {
        let _ = fs::remove_file(&path);
        state.keep(rests.clone(), at).expect("written");
        assert_eq!(path.exists(), written, "{rests:?}");
    }
    state
        .keep(vec![rest(now, 9000, "x")], now)
        .expect("written");
    let mode = fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(
        fs::read_dir(path.parent().expect("a folder"))
            .expect("a folder")
            .count(),
        1
    );
}

#[test]
fn a_damaged_file_is_replaced_and_a_foreign_one_left_alone() {
    let path = file("damaged");
    for left in [
        &[][..],
        &[0; 4096],
        b"alvus-state 1 salt=07 clock=1\n\xff\xfe\n",
    ] {
        fs::write(&path, left).expect("written");
        let (complaint, found) = kept_and_found(&path);
        assert!(complaint.is_some_and(|c| c.contains("is damaged")));
        assert_eq!(found, 1);
    }
    for left in [
        &b"root:x:0:0\n"[..],
        b"\xff\xfe",
        b"alvus-state 2 salt=00\n",
    ] {
        fs::write(&path, left).expect("written");
        let (complaint, found) = kept_and_found(&path);
        assert!(complaint.is_some_and(|c| c.contains("left alone")));
        assert_eq!((found, fs::read(&path).expect("there")), (0, left.to_vec()));
    }
}

#[test]
fn no_link_is_followed_and_only_a_file_is_read() {
    use std::os::unix::fs::symlink;
    let path = file("links");
    let (other, new) = (
        path.with_file_name("other"),
        path.with_file_name("state.new"),
    );
    fs::write(&other, "mine").expect("written");
    symlink(&other, &new).expect("linked");
    assert_eq!(kept_and_found(&path), (None, 1));
    assert_eq!(fs::read(&other).expect("there"), b"mine");
    fs::rename(&path, &other).expect("moved");
    symlink(&other, &path).expect("linked");
    let fifo = path.with_file_name("fifo");
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, 0o600.into(), 0).expect("a FIFO");
    for path in [&path, &fifo, Path::new("/dev/null")] {
        let (complaint, found) = kept_and_found(path);
        assert!(complaint.is_some_and(|c| c.contains("cannot be read")) && found == 0);
    }
}

#[test]
fn a_failing_write_is_said_once_leaves_the_old_file_and_is_tried_again() {
    let path = file("failing");
    assert_eq!(kept_and_found(&path).1, 1);
    let now = Instant::now();
    let (mut state, ..) = StateFile::open(path.clone(), SALTED, now);
    let new = path.with_file_name("state.new");
    fs::create_dir(&new).expect("in the way");
    let said = state
        .keep(vec![rest(now, 7200, "x")], now)
        .expect_err("in the way");
    assert!(said.to_string().contains("STATE_FILE"), "{said}");
    let again = state.keep(vec![rest(now, 7200, "x")], now);
    assert!(again.is_ok(), "said once");
    assert_eq!(StateFile::open(path.clone(), SALTED, now).1[0].model, "m");
    fs::remove_dir(&new).expect("removed");
    state
        .keep(vec![rest(now, 7200, "x")], now)
        .expect("written");
    assert_eq!(StateFile::open(path, SALTED, now).1[0].model, "x");
}

#[test]
fn the_file_is_bounded_and_keeps_the_longest_rests() {
    let (path, now) = (file("much"), Instant::now());
    let (mut state, ..) = StateFile::open(path.clone(), SALTED, now);
    let name = "x".repeat(LONGEST_NAME);
    let rests = (0..10_000).map(|n| rest(now, 3600 + n, &name)).collect();
    state.keep(rests, now).expect("written");
    assert!(fs::metadata(&path).expect("there").len() < LARGEST);
    let found = StateFile::open(path, SALTED, now).1;
    let shortest = found.iter().map(|r| r.until).min().expect("some");
    assert_eq!(
        (found.len(), shortest > now + Duration::from_secs(9000)),
        (MOST, true)
    );
}
