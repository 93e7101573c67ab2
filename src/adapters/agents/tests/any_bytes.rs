//! Whatever bytes a program prints, its parser goes on and claims nothing by itself.

use super::*;

/// Lines with the words of real streams in places where they do not belong.
fn odd_json() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "system",
        "init",
        "assistant",
        "user",
        "result",
        "success",
        "turn.completed",
        "turn.failed",
        "item.started",
        "item.completed",
        "thread.started",
        "step_start",
        "step_finish",
        "tool_use",
        "text",
        "error",
        "stop",
        "end",
        "start",
        "usage",
        "tool-start",
        "command_execution",
        "agent_message",
    ]);
    let keys = prop::sample::select(vec![
        "type",
        "subtype",
        "message",
        "content",
        "usage",
        "item",
        "part",
        "tokens",
        "cache",
        "read",
        "input_tokens",
        "total_cost_usd",
        "cost",
        "id",
        "reason",
        "error",
        "data",
        "statusCode",
        "session_id",
        "claim",
        "permission_denials",
    ]);
    let leaf = prop_oneof![
        words.prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<f64>().prop_map(serde_json::Value::from),
        any::<bool>().prop_map(serde_json::Value::from),
        Just(serde_json::Value::Null),
        Just(serde_json::Value::from(u64::MAX)),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::hash_map(keys.clone().prop_map(str::to_owned), inner, 1..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
    .prop_map(|value| value.to_string())
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(lines in prop::collection::vec(any::<Vec<u8>>(), 0..20)) {
        for kind in KINDS {
            let mut parser = parser(kind, settings(kind), None);
            for line in &lines {
                let _ = parser.line(line);
            }
            let report = parser.report(&JobEnd::Lost, Millis(0));
            prop_assert_eq!(report.claim, None);
        }
    }

    #[test]
    fn no_odd_json_makes_a_parser_panic(lines in prop::collection::vec(odd_json(), 0..20)) {
        for kind in KINDS {
            let mut parser = parser(kind, settings(kind), None);
            for line in &lines {
                for event in parser.line(line.as_bytes()) {
                    let shown = serde_json::to_string(&event).expect("events can be stored");
                    prop_assert!(shown.len() < 20_000);
                }
            }
            let _ = (parser.tool_running(), parser.report(&CLEAN, Millis(0)));
        }
    }

    #[test]
    fn a_real_stream_with_broken_bytes_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for (kind, name) in [
            (AgentKind::Claude, "claude-2.1.197.jsonl"),
            (AgentKind::Codex, "codex-0.169.0.jsonl"),
            (AgentKind::Opencode, "opencode-1.18.33.jsonl"),
        ] {
            let mut stream = fixture(name);
            let at = at.index(stream.len());
            stream[at] = byte;
            let _ = feed(&mut *parser(kind, settings(kind), None), &stream, &CLEAN);
        }
    }
}
