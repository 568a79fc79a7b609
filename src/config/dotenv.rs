//! Parses `.env` text into assignments with line numbers, or the reasons why not.
//!
//! Not `dotenvy`: its parser expands `$`, which a key may contain, refuses spaces in an unquoted value, and quotes the
//! whole bad line, which may hold a key. Errors here have a line number and fixed words, never the line.
//!
//! Supported: `NAME=value`, `export NAME=value`, spaces around `=`, `'literal'`, `"with \n \t \\ \" escapes"`, `#` at
//! the start of a line or after a space, CRLF, a byte order mark; in quotes, values over several lines. Not supported:
//! `$` expansion.

use std::borrow::Cow;

use memchr::memchr_iter;

/// One `NAME=value`. The last one of a name wins.
#[derive(Debug, PartialEq, Eq)]
pub struct Assignment<'a> {
    /// Counted from 1.
    pub line: usize,
    pub name: &'a str,
    /// Copied only if it has an escape: ten thousand keys are half a megabyte.
    pub value: Cow<'a, str>,
}

/// A line that cannot be read, and why, in words that show none of it.
#[derive(Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Counted from 1.
    pub line: usize,
    pub why: &'static str,
}

/// Reads the whole text; a bad line does not hide the others.
pub fn parse(text: &str) -> (Vec<Assignment<'_>>, Vec<BadLine>) {
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let mut line = 1;
    while !rest.is_empty() {
        let (this, mut after) = rest.split_once('\n').unwrap_or((rest, ""));
        let this = this.trim_start();
        if !this.trim_end().is_empty() && !this.starts_with('#') {
            match assignment(rest) {
                Ok((name, value, end)) => {
                    good.push(Assignment { line, name, value });
                    after = end;
                }
                Err(why) => bad.push(BadLine { line, why }),
            }
        }
        let passed = &rest[..rest.len() - after.len()];
        line += memchr_iter(b'\n', passed.as_bytes()).count();
        rest = after;
    }
    (good, bad)
}

/// The assignment at the start of the text, and the lines after it.
fn assignment(text: &str) -> Result<(&str, Cow<'_, str>, &str), &'static str> {
    const SHAPE: &str = "is not NAME=value (nor a comment, which starts with #)";
    let (name, value) = text.split_once('=').ok_or(SHAPE)?;
    let name = name.trim_start();
    let name = match name.strip_prefix("export") {
        Some(rest) if rest.starts_with(char::is_whitespace) => rest.trim(),
        _ => name.trim_end(),
    };
    if !is_name(name) {
        return Err(SHAPE);
    }
    let (value, end) = read_value(value)?;
    Ok((name, value, end))
}

/// Also `.` and `-`, which other programs that share the file may use.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// The value, and the lines after it.
fn read_value(text: &str) -> Result<(Cow<'_, str>, &str), &'static str> {
    let start = text.trim_start_matches([' ', '\t']);
    if let Some(rest) = start.strip_prefix('\'') {
        let (value, rest) = rest
            .split_once('\'')
            .ok_or("opens a ' that is not closed")?;
        return Ok((value.into(), only_comment(rest)?));
    }
    if let Some(rest) = start.strip_prefix('"') {
        let (value, rest) = double_quoted(rest)?;
        return Ok((value.into(), only_comment(rest)?));
    }
    let (text, after) = text.split_once('\n').unwrap_or((text, ""));
    if !text.contains('#') {
        return Ok((text.trim().into(), after)); // the fast way for most values
    }
    // The space before `start` counts: `NAME= # note` is all comment, `NAME=#1` has none.
    Ok((uncommented(text, false).trim().into(), after))
}

/// The text without what follows a `#` after a blank. `after_blank`: its start counts as that.
pub fn uncommented(text: &str, mut after_blank: bool) -> &str {
    let comment = text.find(|c: char| {
        let found = c == '#' && after_blank;
        after_blank = c.is_whitespace();
        found
    });
    &text[..comment.unwrap_or(text.len())]
}

/// The value up to the closing quote, and what follows that.
fn double_quoted(text: &str) -> Result<(String, &str), &'static str> {
    let mut value = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '"' => return Ok((value, rest.as_str())),
            '\\' => value.push(match rest.next() {
                Some('\n') => continue, // as in a shell
                Some('n') => '\n',
                Some('t') => '\t',
                Some(c @ ('\\' | '"')) => c,
                Some(_) => return Err(r#"has an unknown \ escape (in "…" there are \n \t \\ \"; '…' takes all literally)"#),
                None => break,
            }),
            c => value.push(c),
        }
    }
    Err("opens a \" that is not closed")
}

/// Checks that the rest of the line is empty or a comment. Returns the lines after it.
fn only_comment(rest: &str) -> Result<&str, &'static str> {
    let (rest, after) = rest.split_once('\n').unwrap_or((rest, ""));
    let trimmed = rest.trim_start();
    if trimmed.is_empty() || (trimmed.starts_with('#') && trimmed.len() < rest.len()) {
        Ok(after)
    } else {
        Err("has text after its closing quote (a comment there needs a space and #)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_value_is_read() {
        for (text, value) in [
            ("A=1", "1"),
            ("A = 1 ", "1"),
            ("\tA\t=\t1\t", "1"),
            ("export A=1", "1"),
            ("export\tA = 1", "1"),
            ("A=", ""),
            ("A=   ", ""),
            ("A=one two", "one two"),
            ("A=one, two # three", "one, two"),
            ("A=one\t# two", "one"),
            ("A= # all comment", ""),
            ("A=#1", "#1"),
            ("A=one#two", "one#two"),
            ("A=x=y==", "x=y=="),
            ("A=$HOME/${B}", "$HOME/${B}"),
            ("A=it's \"so\" \\n", "it's \"so\" \\n"),
            ("A=''", ""),
            ("A=' 1 # \\n \" $B'", " 1 # \\n \" $B"),
            ("A='1' # note", "1"),
            ("A=\"\"", ""),
            (r#"A="a\n\t\\\"b # c" # d"#, "a\n\t\\\"b # c"),
            ("A=\"it's\"", "it's"),
            ("A=\"1\"\r", "1"),
        ] {
            let expected = Assignment {
                line: 1,
                name: "A",
                value: value.into(),
            };
            assert_eq!(parse(text), (vec![expected], vec![]), "{text:?}");
        }
    }

    #[test]
    fn a_name_may_begin_with_export() {
        let (good, bad) = parse("exported=1\nexport=2\nexport_x=3\nexport export=4");
        assert_eq!(bad, []);
        assert_eq!(
            good.iter().map(|a| a.name).collect::<Vec<_>>(),
            ["exported", "export", "export_x", "export"]
        );
    }

    #[test]
    fn a_value_in_quotes_may_have_several_lines() {
        let (good, bad) = parse("A=\"one,\r\ntwo\"\nB='x\n\n# y' # z\nC=1\nD=\"open\nE=2\n");
        let seen: Vec<_> = good.iter().map(|a| (a.line, a.name, &*a.value)).collect();
        assert_eq!(
            seen,
            [
                (1, "A", "one,\r\ntwo"),
                (3, "B", "x\n\n# y"),
                (6, "C", "1"),
                (8, "E", "2")
            ]
        );
        assert_eq!((bad.len(), bad[0].line), (1, 7));
    }

    #[test]
    fn comments_blank_lines_crlf_and_bom_are_skipped_and_counted() {
        let (good, bad) = parse("\u{feff}A=1\r\n\r\n  # note\r\n#\r\nB.b-b='2'\r\n");
        assert_eq!(bad, []);
        let seen: Vec<_> = good.iter().map(|a| (a.line, a.name, &*a.value)).collect();
        assert_eq!(seen, [(1, "A", "1"), (5, "B.b-b", "2")]);
    }

    #[test]
    fn a_bad_line_is_named_by_number_and_never_quoted() {
        for (text, why) in [
            ("sk-secret", "is not NAME=value"),
            ("export sk_secret", "is not NAME=value"),
            ("=sk-secret", "is not NAME=value"),
            ("1A=sk-secret", "is not NAME=value"),
            ("A B=sk-secret", "is not NAME=value"),
            ("Ä=sk-secret", "is not NAME=value"),
            ("A: sk-secret", "is not NAME=value"),
            ("A='sk-secret", "opens a ' that is not closed"),
            ("A=\"sk-secret", "opens a \" that is not closed"),
            ("A=\"sk-secret\\", "opens a \" that is not closed"),
            ("A=\"sk-secret\\\"", "opens a \" that is not closed"),
            ("A=\"sk-secret\\d\"", "has an unknown \\ escape"),
            ("A='sk-secret'x", "has text after its closing quote"),
            ("A=\"sk-secret\"#x", "has text after its closing quote"),
            ("A=\"sk\" \"secret\"", "has text after its closing quote"),
        ] {
            let whole = format!("# first\n{text}\nZ=1");
            let (good, bad) = parse(&whole);
            assert_eq!(good.len(), 1, "{text:?}");
            assert_eq!((bad.len(), bad[0].line), (1, 2), "{text:?}");
            assert!(bad[0].why.starts_with(why), "{text:?}: {}", bad[0].why);
            assert!(!bad[0].why.contains("secret"), "{text:?}");
        }
    }
}
