//! Lines as they should be, and as anybody may send them.

use super::super::answers::Added;
use super::*;
use proptest::prelude::*;

fn refused(line: &str) -> String {
    Request::parse(line.as_bytes()).unwrap_err().to_string()
}

#[test]
fn each_request_survives_its_line() {
    let id = || "data".to_string();
    let requests = [
        Request::State,
        Request::Stats,
        Request::Pause,
        Request::Resume,
        Request::Shutdown,
        Request::Memory(Memory { size: 512 << 20 }),
        Request::AddDisk(AddDisk {
            id: id(),
            readonly: true,
            limits: PerSecond { bytes: None, ops: Some(3) },
        }),
        Request::AddPmem(AddPmem { id: id(), access: Access::Cow }),
        Request::AddShare(AddShare { id: id(), readonly: false, dax: 2 << 20 }),
        Request::AddNet(AddNet {
            id: id(),
            mac: [2, 0, 0, 0, 0, 255],
            queues: 2,
            rx: PerSecond { bytes: Some(1), ops: None },
            tx: PerSecond::default(),
        }),
        Request::Remove(Remove { id: id(), force: true }),
    ];
    for request in requests {
        let line = request.to_line();
        assert_eq!(line.iter().position(|b| *b == b'\n'), Some(line.len() - 1));
        assert_eq!(Request::parse(&line[..line.len() - 1]).unwrap(), request);
        assert!(COMMANDS.contains(request.name()));
    }
}

#[test]
fn what_is_not_known_is_named() {
    assert!(refused("").contains("one looks like"));
    assert!(refused("[1]").contains("no request"));
    assert!(refused(r#"{"command":"state"}"#).contains("missing field `version`"));
    assert!(refused(r#"{"version":1}"#).contains("missing field `command`"));
    assert!(refused(r#"{"version":2,"news":0,"command":"state"}"#).contains("version 2 is not supported"));
    assert!(refused(r#"{"version":1,"command":"state","x":1}"#).contains("unknown field `x`"));
    assert!(refused(r#"{"version":1,"command":"fly"}"#).contains("there are state, stats"));
    assert!(
        refused(r#"{"version":1,"command":"pause","arguments":{"for":1}}"#)
            .contains("it has none, and got \"for\"")
    );
    assert!(
        refused(r#"{"version":1,"command":"remove","arguments":{"id":"a","now":true}}"#)
            .contains("unknown field `now`")
    );
    assert!(refused(r#"{"version":1,"command":"add-disk"}"#).contains("missing field `id`"));
    assert!(
        refused(r#"{"version":1,"command":"add-net","arguments":{"id":"a","mac":[1]}}"#)
            .contains("arguments of add-net")
    );
    for queues in [0, 9] {
        let arguments = format!(r#"{{"id":"a","mac":[2,0,0,0,0,1],"queues":{queues}}}"#);
        let line = format!(r#"{{"version":1,"command":"add-net","arguments":{arguments}}}"#);
        assert!(refused(&line).contains("1 to 8 pairs of queues"), "{line}");
    }
    for id in ["", "a b", "a\\n", &"x".repeat(MAX_ID + 1)] {
        let line = format!(r#"{{"version":1,"command":"remove","arguments":{{"id":"{id}"}}}}"#);
        assert!(refused(&line).contains("an id has 1 to 64 bytes"), "{id:?}");
    }
}

#[test]
fn outcomes_survive_their_line() {
    let added = Added { id: "a".to_string(), pci: "0000:00:01.0".to_string() };
    for outcome in [Outcome::done(), Outcome::ok(&added), Outcome::Error("no\nway".to_string())] {
        let line = outcome.to_line();
        assert_eq!(line.iter().position(|b| *b == b'\n'), Some(line.len() - 1));
        assert_eq!(Outcome::parse(&line[..line.len() - 1]), Ok(outcome));
    }
    assert!(Outcome::parse(br#"{"version":7,"ok":{}}"#).unwrap_err().contains("version 7"));
    assert!(Outcome::parse(b"{}").is_err());
}

/// JSON with names that mean something, and with some that do not.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,80}".prop_map(Value::from),
        Just(Value::from("add-disk")),
        Just(Value::from(1)),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        let key = prop_oneof![
            Just("version"),
            Just("command"),
            Just("arguments"),
            Just("id"),
            Just("mac"),
            Just("dax"),
            Just("?")
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..6).prop_map(|pairs| Value::Object(
                pairs.into_iter().map(|(k, v)| (k.to_string(), v)).collect()
            )),
        ]
    })
}

proptest! {
    #[test]
    fn any_line_is_a_request_or_a_short_refusal(bytes in prop::collection::vec(any::<u8>(), 0..300), value in value()) {
        for line in [bytes, value.to_string().into_bytes()] {
            if let Err(error) = Request::parse(&line) {
                prop_assert!(error.to_string().len() < 1024);
            }
        }
    }
}

#[test]
fn a_refusal_is_one_line_of_plain_text() {
    for line in [
        r#"{"version":1,"command":"remove","arguments":{"id":"a","\n":1}}"#,
        r#"{"version":1,"command":"state","\u001b[2J":1}"#,
        r#"{"version":1,"command":"add-pmem","arguments":{"id":"a","access":"\u007f\n"}}"#,
        r#"{"version":1,"command":"\u001b"}"#,
    ] {
        let error = Request::parse(line.as_bytes()).unwrap_err().to_string();
        assert!(!error.contains(char::is_control), "{error:?}");
    }
}
