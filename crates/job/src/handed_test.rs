use super::*;
use proptest::prelude::*;

type Values = Vec<(String, Option<String>)>;

fn parse(env: &str) -> (Values, Vec<(usize, WrongText)>) {
    let (handed, wrong) = Handed::parse(env.as_bytes(), b"");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let variables = handed.variables.iter();
    (
        variables
            .map(|(name, value)| (text(name), value.as_deref().map(text)))
            .collect(),
        wrong.iter().map(|wrong| (wrong.line, wrong.why)).collect(),
    )
}

fn values(env: &str) -> Values {
    let (values, wrong) = parse(env);
    assert_eq!(wrong, [], "{env:?}");
    values
}

fn set(pairs: &[(&str, &str)]) -> Values {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), Some((*value).to_owned()));
    pairs.iter().map(owned).collect()
}

#[test]
fn each_form_is_read() {
    for (text, expected) in [
        ("", &[][..]),
        ("\n\n\n", &[]),
        ("A=1\nB=2\n", &[("A", "1"), ("B", "2")]),
        ("A=1", &[("A", "1")]),
        ("A=1\nA=2\n", &[("A", "2")]),
        ("A=\n", &[("A", "")]),
        ("A= 1 = 2 \n", &[("A", " 1 = 2 ")]),
        ("A=x<<y\nB=1\n", &[("A", "x<<y"), ("B", "1")]),
        ("A<<END\none\ntwo\nEND\nB=1\n", &[("A", "one\ntwo"), ("B", "1")]),
        ("A<<END\nEND\n", &[("A", "")]),
        ("A<<END\n\nEND\n", &[("A", "")]),
        ("A<<END\none\n\nEND\n", &[("A", "one\n")]),
        (
            "A<<E=F\nB=1\nunset A\n END\nE=F\n",
            &[("A", "B=1\nunset A\n END")],
        ),
        ("A<<END\none\nEND", &[("A", "one")]),
        ("_a1=ü\r\n", &[("_a1", "ü\r")]),
        ("unset A\nA=1\n", &[("A", "1")]),
    ] {
        assert_eq!(values(text), set(expected), "{text:?}");
    }
    assert_eq!(values("A=1\nunset A\n"), [("A".to_owned(), None)]);
    assert_eq!(values("unset NEVER\n"), [("NEVER".to_owned(), None)]);
}

#[test]
fn a_wrong_line_is_skipped_and_the_rest_is_read() {
    use WrongText::{Form, Name, NoDelimiter, Nul, Open, Own};
    for (text, wrong, expected) in [
        (
            "A=1\nword\nB=2\n",
            &[(2, Form)][..],
            &[("A", "1"), ("B", "2")][..],
        ),
        ("=1\nB=2\n", &[(1, Name)], &[("B", "2")]),
        (
            "1A=1\nA B=1\nA-B=1\nÄ=1\n A=1\nexport A=1\n",
            &[(1, Name), (2, Name), (3, Name), (4, Name), (5, Name), (6, Name)],
            &[],
        ),
        (
            "JOBCAGE_ENV=/x\nJOBCAGE_JOB<<E\nB=1\nE\nunset JOBCAGE_X\nB=2\n",
            &[(1, Own), (2, Own), (5, Own)],
            &[("B", "2")],
        ),
        ("JOBCAGE=mine\n", &[], &[("JOBCAGE", "mine")]),
        ("A<<\nB=2\n", &[(1, NoDelimiter)], &[("B", "2")]),
        ("A=0\nB<<END\nC=1\nend\n", &[(2, Open)], &[("A", "0")]),
        // No beginning of a value, so what follows is not inside of one.
        ("a shell << END\nC=1\n", &[(1, Name)], &[("C", "1")]),
        // It is one, under a name that cannot be: what is inside must not become a variable.
        ("a-b<<END\nC=1\nEND\nD=1\n", &[(1, Name)], &[("D", "1")]),
        ("A=x\0y\nB=1\n", &[(1, Nul)], &[("B", "1")]),
        (
            "unset\nunset \nunset A B\n",
            &[(1, Form), (2, Name), (3, Name)],
            &[],
        ),
    ] {
        let (values, found) = parse(text);
        assert_eq!(found, wrong, "{text:?}");
        assert_eq!(values, set(expected), "{text:?}");
    }
}

#[test]
fn what_no_program_can_be_given_is_skipped() {
    let longest = MAX_STRING - "A=".len() - 1;
    let (found, wrong) = parse(&format!(
        "A={}\nB={}x\n",
        "x".repeat(longest),
        "x".repeat(longest)
    ));
    assert_eq!(wrong, [(2, WrongText::Long)]);
    assert_eq!(found.len(), 1);
    // Small ones are many pointers.
    let many: String = (0..80_000).map(|n| format!("A{n}=\n")).collect();
    let (found, wrong) = parse(&many);
    assert_eq!(wrong[0].1, WrongText::Total);
    let bytes: usize = found.iter().map(|(name, _)| name.len() + 2 + 8).sum();
    assert!(bytes <= MAX_TOTAL && bytes > MAX_TOTAL - 100, "{bytes}");
    assert_eq!(found.len() + wrong.len(), 80_000);
}

/// A quadratic reader would need minutes for these.
#[test]
fn hostile_texts_of_the_greatest_length_are_read_at_once() {
    let began = std::time::Instant::now();
    for line in ["-<<B\n", "A<<\n", "x\n", "unset A\n", "A=\n", "A<<B\n\nB\n"] {
        let text = line.repeat(1024 * 1024 / line.len());
        let (handed, wrong) = Handed::parse(text.as_bytes(), text.as_bytes());
        assert!(handed.variables.len() + wrong.len() > 0, "{line:?}");
    }
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}

#[test]
fn notes_are_few_and_quote_nothing() {
    let (_, wrong) = Handed::parse(b"SECRET one\nSECRET two\nSECRET<<\n", b"/SECRET:\n");
    let notes = wrong_lines(&wrong);
    assert_eq!(notes.len(), 4);
    assert!(!notes.concat().contains("SECRET"), "{notes:?}");
    assert!(
        notes[0].starts_with("line 1 of JOBCAGE_ENV is skipped: "),
        "{notes:?}"
    );
    assert!(
        notes[3].starts_with("line 1 of JOBCAGE_PATH is skipped: "),
        "{notes:?}"
    );
    let (_, wrong) = Handed::parse("x\n".repeat(1000).as_bytes(), b"");
    let notes = wrong_lines(&wrong);
    assert_eq!((notes.len(), notes[5].split(' ').next()), (6, Some("995")));
    let (handed, _) = Handed::parse(b"NAME=SECRET\n", b"/SECRET\n");
    let shown = format!("{handed:?}");
    assert!(shown.contains("NAME") && !shown.contains("SECRET"), "{shown}");
}

fn applied(env: &[&str], handed: (&str, &str), explicit: &[&str]) -> Vec<String> {
    let own = |text: &&str| CString::new(*text).unwrap();
    let mut env: Vec<CString> = env.iter().map(own).collect();
    let explicit: Vec<CString> = explicit.iter().map(own).collect();
    let (handed, _) = Handed::parse(handed.0.as_bytes(), handed.1.as_bytes());
    handed.apply(&mut env, &explicit);
    env.into_iter()
        .map(|entry| entry.into_string().unwrap())
        .collect()
}

#[test]
fn it_is_put_over_an_environment() {
    let none = applied(&["A=1", "PATH=/b"], ("", ""), &[]);
    assert_eq!(none, ["A=1", "PATH=/b"]);
    let some = applied(
        &["A=1", "A=2", "B=1", "C=1", "AA=1"],
        ("A=3\nunset B\nD=4\n", ""),
        &[],
    );
    assert_eq!(some, ["C=1", "AA=1", "A=3", "D=4"]);
    let explicit = applied(&["A=1", "B=1"], ("A=3\nunset B\nC=3\n", ""), &["A", "B", "D"]);
    assert_eq!(explicit, ["A=1", "B=1", "C=3"]);
}

#[test]
fn directories_come_before_path_last_written_first() {
    let dirs = "/one\n/two\n\n/one\nrelative\n";
    assert_eq!(
        applied(&["PATH=/b:/c"], ("", dirs), &[]),
        ["PATH=relative:/one:/two:/b:/c"]
    );
    assert_eq!(applied(&["PATH=/b"], ("PATH=/x\n", "/y\n"), &[]), ["PATH=/y:/x"]);
    assert_eq!(
        applied(&["PATH=/b"], ("PATH=/x\n", "/y\n"), &["PATH"]),
        ["PATH=/b"]
    );
    assert_eq!(
        applied(&[], ("", "/y\n"), &[]),
        [format!("PATH=/y:{DEFAULT_PATH}")]
    );
    assert_eq!(applied(&["PATH="], ("", "/y\n"), &[]), ["PATH=/y"]);
    let (handed, wrong) = Handed::parse(b"", b"/a:/b\n/c\n/d\0\n/e");
    assert_eq!(handed.path, [b"/e", b"/c"]);
    let why: Vec<_> = wrong.iter().map(|wrong| (wrong.line, wrong.why)).collect();
    assert_eq!(why, [(1, WrongText::Colon), (3, WrongText::Nul)]);
    let long = "/x\n".repeat(MAX_PATH);
    let (handed, wrong) = Handed::parse(b"", long.as_bytes());
    assert_eq!(
        (handed.path.len(), wrong.len(), wrong[0].why),
        (1, 1, WrongText::LongPath)
    );
}

#[test]
fn only_what_can_be_read_again_is_rendered() {
    for (name, value, why) in [
        ("", "x", WrongText::Name),
        ("A=B", "x", WrongText::Name),
        ("A\nB", "x", WrongText::Name),
        ("JOBCAGE_JOB", "x", WrongText::Own),
        ("A", "\0", WrongText::Nul),
        ("A", &"x".repeat(MAX_STRING), WrongText::Long),
    ] {
        assert_eq!(
            render_set(name.as_bytes(), value.as_bytes()),
            Err(why),
            "{name:?}"
        );
    }
    assert_eq!(render_unset(b"A B"), Err(WrongText::Name));
    assert_eq!(render_unset(b"A").unwrap(), b"unset A\n");
}

/// Values with whatever could be mistaken for the text around them.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        3 => prop::collection::vec(1_u8..=255, 0..6),
        4 => proptest::sample::select(vec!["\n", "END0", "END1", "END2", "A=", "<<", "unset ", "=", "\r", " "])
            .prop_map(|text| text.as_bytes().to_vec()),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn what_is_written_is_what_is_read(
        steps in prop::collection::vec(("[A-Za-z_][A-Za-z0-9_]{0,2}", prop::option::of(value())), 0..8),
    ) {
        let mut text = Vec::new();
        let mut expected = BTreeMap::new();
        for (name, value) in steps {
            let name = name.into_bytes();
            text.extend(match &value {
                Some(value) => render_set(&name, value).unwrap(),
                None => render_unset(&name).unwrap(),
            });
            expected.insert(name, value);
        }
        let (handed, wrong) = Handed::parse(&text, b"");
        prop_assert_eq!(wrong, vec![]);
        prop_assert_eq!(handed.variables, expected);
    }

    #[test]
    fn no_text_can_do_harm(env in value(), path in value(), old in prop::collection::vec("[A-C=:/]{0,4}", 0..4)) {
        let (handed, wrong) = Handed::parse(&env, &path);
        for (name, value) in &handed.variables {
            prop_assert_eq!(check(name, value.as_deref().unwrap_or_default()), Ok(()));
        }
        let lines = env.split(|b| *b == b'\n').count().max(path.split(|b| *b == b'\n').count());
        prop_assert!(wrong.iter().all(|wrong| wrong.line >= 1 && wrong.line <= lines));
        let mut entries: Vec<CString> = old.into_iter().map(|entry| CString::new(entry).unwrap()).collect();
        handed.apply(&mut entries, &[]);
        for (name, value) in &handed.variables {
            let found = entries.iter().filter(|entry| name_of(entry) == name.as_slice()).count();
            prop_assert_eq!(found, usize::from(value.is_some()), "{:?}", entries);
        }
    }
}
