//! The file format, read back and pinned.

use super::*;
use crate::types::NodeId;

fn op(seq: u32) -> Op {
    let key = Key::new("k \"quoted\" é", 64).expect("a key");
    let invoked_us = 10 * u64::from(seq);
    Op {
        value: Some(Value::Named(ValueId { client: 3, seq })),
        answered_us: invoked_us + 7,
        ended: Ended::Ok,
        served: Some(Served(EffectiveLevel::Quorum { r: 2, w: 2, n: 3 })),
        version: Some(Version::new(0x0193_e5f2_a1b3_0000, NodeId(2))),
        status: 204,
        ..Op::begun(3, Action::Put, key, 2, Level::Quorum, invoked_us)
    }
}

#[test]
fn a_history_reads_back_as_it_was_written() {
    let strange = Op {
        action: Action::Get,
        value: Some(Value::Foreign("not ours".to_owned())),
        ended: Ended::Unknown,
        r: Some(1),
        served: None,
        version: None,
        superseded: Some(Version::new(9, NodeId(1))),
        readback: true,
        ..op(2)
    };
    let item = Item {
        key: Key::new("a/1", 64).expect("a key"),
        version: Version::new(8, NodeId(3)),
        value: Some(Value::Named(ValueId { client: 3, seq: 1 })),
    };
    let list = Op {
        action: Action::List,
        value: None,
        items: Some(vec![item.clone(), Item { value: None, ..item }]),
        more: true,
        after: Some(Key::new("a/0", 64).expect("a key")),
        ..op(3)
    };
    let conditional = Op { if_match: Some(Version::new(7, NodeId(2))), ..op(4) };
    let create = Op { if_absent: true, ..op(5) };
    let header = Header::new(Mode::Leaderless, "stale-reads", 42, 3);
    // Given out of order on purpose.
    let history = History::new(header, vec![strange, op(1), list, conditional, create]);
    assert_eq!(history.ops[0], op(1));
    let mut file = Vec::new();
    history.write(&mut file).expect("writes");
    assert_eq!(History::read(file.as_slice()).expect("reads"), history);
}

#[test]
fn the_file_format_does_not_change_unnoticed() {
    let header = Header::new(Mode::Leader, "killed-node", 42, 3);
    let mut file = Vec::new();
    History::new(header, vec![op(12)]).write(&mut file).expect("writes");
    let expected = concat!(
        r#"{"what":"quorate-history","format":2,"mode":"leader","experiment":"killed-node","#,
        r#""seed":42,"nodes":3}"#,
        "\n",
        r#"{"client":3,"op":"put","key":"k \"quoted\" é","value":"3-12","invoked_us":120,"#,
        r#""answered_us":127,"outcome":"ok","node":2,"level":"quorum","#,
        r#""served":"quorum; r=2; w=2; n=3","version":"0193e5f2a1b30000-2","status":204}"#,
        "\n",
    );
    assert_eq!(String::from_utf8_lossy(&file), expected);
}

#[test]
fn what_is_no_history_is_refused_with_its_line() {
    let say = |text: &str| History::read(text.as_bytes()).expect_err("refused").to_string();
    assert!(say("").contains("empty"));
    assert!(say("{}").contains("line 1 is not the header"));
    assert!(say("not JSON").contains("line 1 is not the header"));
    let header = r#"{"what":"quorate-history","format":3,"mode":"leader","experiment":"x","seed":1,"nodes":3}"#;
    assert!(say(header).contains("format 3"));
    assert!(say(&header.replace("quorate-history", "shopping")).contains("'shopping'"));
    let header = header.replace(":3,", ":1,");
    assert!(say(&format!("{header}\n{{}}")).contains("line 2 is not an operation"));
    let put = r#"{"client":3,"op":"put","key":"k","value":"3-1","invoked_us":5,"answered_us":9,"outcome":"ok","node":2,"level":"quorum","status":204}"#;
    // Empty lines are no operations and no mistakes, and count as lines.
    assert!(History::read(format!("{header}\n\n{put}\n\n").as_bytes()).is_ok());
    assert!(
        say(&format!("{header}\n\n{put}\n{put}"))
            .contains("line 4: value 3-1 was written in line 3")
    );
    let early = put.replace(":9,", ":4,");
    assert!(say(&format!("{header}\n{early}")).contains("line 2: answered at 4 µs, before"));
    let nameless = put.replace(r#""value":"3-1","#, "");
    assert!(say(&format!("{header}\n{nameless}")).contains("which value"));
    let strange = put.replace("quorum", "strong");
    assert!(say(&format!("{header}\n{put}\n{strange}")).contains("line 3 is not an operation"));
    let bytes = [header.as_bytes(), b"\n\xff\xfe\n"].concat();
    let error = History::read(bytes.as_slice()).expect_err("refused").to_string();
    assert!(error.contains("line 2"), "{error}");
}

#[test]
fn every_served_level_reads_back_from_its_text() {
    for level in [
        EffectiveLevel::Linearizable,
        EffectiveLevel::Lease,
        EffectiveLevel::Local,
        EffectiveLevel::LocalWithin { staleness_ms: 12 },
        EffectiveLevel::Quorum { r: 2, w: 2, n: 3 },
        EffectiveLevel::Eventual { r: 1, w: 2, n: 3 },
    ] {
        assert_eq!(level.to_string().parse(), Ok(Served(level)));
    }
    for bad in ["", "quorum", "quorum; r=2", "quorum; w=2; r=2; n=3", "strong"] {
        assert!(bad.parse::<Served>().is_err(), "{bad}");
    }
}
