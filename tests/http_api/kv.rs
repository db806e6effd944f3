//! One key: what HTTP says about values, conditions and ranges.

use quorate::types::{Change, Condition, EffectiveLevel, Level, Mode, NodeId, Version};

use crate::world::{build, in_a_world};

#[test]
fn a_value_comes_back_as_it_was_put_with_its_type_and_version() {
    in_a_world(Mode::Leader, |world| async move {
        let bytes: Vec<u8> = (0..=255).collect();
        let request = build(
            "PUT",
            "/v1/kv/img/cat",
            &[("content-type", "image/png; x=1")],
            bytes.clone().into(),
        );
        let put = world.send(request).await;
        assert_eq!((put.status.as_u16(), put.body.len()), (204, 0));
        let etag = put.header("etag").expect("an entity tag");
        assert!(etag.starts_with('"') && etag.ends_with("-2\""), "{etag}");
        assert_eq!(put.header("quorate-mode"), Some("leader"));
        assert_eq!(put.header("quorate-node"), Some("2"));
        assert_eq!(put.header("quorate-consistency"), Some("linearizable"));
        assert_eq!(put.header("quorate-messages"), None);

        let got = world.get("/v1/kv/img/cat").await;
        assert_eq!(got.status, 200);
        assert_eq!(got.body, bytes);
        assert_eq!(got.header("etag"), Some(etag));
        assert_eq!(got.header("content-type"), Some("image/png; x=1"));
        assert_eq!(got.header("last-modified"), Some("Tue, 14 Nov 2023 22:13:20 GMT"));
        assert_eq!(got.header("accept-ranges"), Some("bytes"));
        assert_eq!(got.header("quorate-consistency"), Some("linearizable"));

        let head = world.ask("HEAD", "/v1/kv/img/cat", &[]).await;
        assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
        assert_eq!(head.header("content-length"), Some("256"));
        for name in ["etag", "content-type", "last-modified", "accept-ranges"] {
            assert_eq!(head.header(name), got.header(name), "{name}");
        }
    });
}

#[test]
fn a_value_without_a_type_is_bytes_and_may_be_empty() {
    in_a_world(Mode::Leader, |world| async move {
        world.store("empty", "").await;
        let got = world.get("/v1/kv/empty").await;
        assert_eq!((got.status.as_u16(), got.body.len()), (200, 0));
        assert_eq!(got.header("content-type"), Some("application/octet-stream"));
    });
}

#[test]
fn a_deleted_key_is_missing_and_deleting_nothing_is_fine() {
    in_a_world(Mode::Leader, |world| async move {
        assert_eq!(world.get("/v1/kv/a").await.problem(), (404, "no-such-key".to_owned()));
        world.store("a", "1").await;
        for _ in 0..2 {
            let deleted = world.ask("DELETE", "/v1/kv/a", &[]).await;
            assert_eq!(deleted.status, 204);
            assert!(deleted.header("etag").is_some());
        }
        let missing = world.get("/v1/kv/a").await;
        assert_eq!(missing.problem(), (404, "no-such-key".to_owned()));
        assert_eq!(missing.header("quorate-consistency"), Some("linearizable"));
        assert_eq!(missing.json()["outcome"], serde_json::Value::Null);
    });
}

#[test]
fn keys_are_whatever_the_path_decodes_to() {
    in_a_world(Mode::Leader, |world| async move {
        for (path, key) in [
            ("a%2Fb", "a/b"),
            ("a/b", "a/b"),
            ("a//b/", "a//b/"),
            ("/a", "/a"),
            ("a+b", "a+b"),
            ("%20", " "),
            ("caf%c3%a9", "café"),
            ("a%00b", "a\0b"),
            ("../x", "../x"),
            ("%25", "%"),
        ] {
            world.store(path, key.to_owned()).await;
            assert_eq!(world.fake.last_write().key.as_str(), key);
            let got = world.get(&format!("/v1/kv/{path}")).await;
            assert_eq!(got.body, key.as_bytes(), "{path}");
        }
    });
}

#[test]
fn keys_that_cannot_be_are_refused_and_change_nothing() {
    in_a_world(Mode::Leader, |world| async move {
        let long = "x".repeat(4_097);
        for (path, code) in [
            ("", "key-empty"),
            ("%ff", "bad-escape"),
            ("%", "bad-escape"),
            ("a%2", "bad-escape"),
            ("%gg", "bad-escape"),
            (long.as_str(), "key-too-long"),
        ] {
            for method in ["GET", "HEAD", "PUT", "DELETE"] {
                let answer = world.ask(method, &format!("/v1/kv/{path}"), &[]).await;
                assert_eq!(answer.problem(), (400, code.to_owned()), "{method} {path}");
                let is_write = method == "PUT" || method == "DELETE";
                let outcome = is_write.then_some("not_applied");
                assert_eq!(answer.json()["outcome"].as_str(), outcome, "{method} {path}");
            }
        }
        assert_eq!(world.fake.requests(), 0);
        // The longest key that is allowed is counted decoded.
        let longest = "%78".repeat(4_096);
        world.store(&longest, "1").await;
    });
}

#[test]
fn what_a_request_asks_for_reaches_the_replicator() {
    in_a_world(Mode::Leaderless, |world| async move {
        let started = tokio::time::Instant::now();
        world
            .get("/v1/kv/a?consistency=quorum&max_staleness=2s&r=1&w=3&forward=never&timeout=250ms")
            .await;
        let options = world.fake.last_options();
        assert_eq!((options.level, options.r, options.w), (Some(Level::Quorum), Some(1), Some(3)));
        assert!(!options.may_forward);
        assert_eq!(options.max_staleness.map(|bound| bound.as_millis()), Some(2_000));
        assert_eq!((options.deadline - started).as_millis(), 250);
        world.store("a", "1").await;
        let options = world.fake.last_options();
        assert_eq!((options.level, options.r, options.w), (None, None, None));
        assert!(options.may_forward);
        assert_eq!((options.deadline - started).as_millis(), 5_000);
    });
}

#[test]
fn parameters_that_are_not_understood_are_refused_by_name() {
    in_a_world(Mode::Leader, |world| async move {
        for (query, named, said) in [
            ("consistency=strong", "consistency", "linearizable, lease, quorum or local"),
            ("consistancy=local", "consistancy", "consistency, max_staleness, r, w"),
            ("prefix=a", "prefix", "consistency, max_staleness, r, w"),
            ("r=0", "r", "1 or more"),
            ("w=x", "w", "1 or more"),
            ("r=1&r=2", "r", "given twice"),
            ("forward=yes", "forward", "'allow' or 'never'"),
            ("timeout=1h", "timeout", "500ms"),
            ("timeout=10s", "timeout", "at most 5000 ms"),
        ] {
            for method in ["GET", "PUT", "DELETE"] {
                let answer = world.ask(method, &format!("/v1/kv/a?{query}"), &[]).await;
                assert_eq!(answer.problem().0, 400, "{method} {query}");
                let json = answer.json();
                assert_eq!(json["parameter"], named, "{method} {query}");
                let detail = json["detail"].as_str().expect("a detail");
                assert!(detail.contains(said) && detail.contains(named), "{query}: {detail}");
            }
        }
        let answer = world.get("/v1/kv/a?r=%zz").await;
        assert_eq!(answer.problem(), (400, "bad-escape".to_owned()));
        assert_eq!(world.fake.requests(), 0);
    });
}

#[test]
fn conditions_of_writes_are_passed_on_and_a_failed_one_says_what_stands_there() {
    in_a_world(Mode::Leader, |world| async move {
        let put = async |header: (&'static str, &str)| {
            world.send(build("PUT", "/v1/kv/a", &[header], "v".into())).await
        };
        let failed = put(("if-match", "*")).await;
        assert_eq!(failed.problem(), (412, "precondition-failed".to_owned()));
        assert_eq!(failed.header("etag"), None);
        assert_eq!(failed.json()["outcome"], "not_applied");
        assert_eq!(put(("if-none-match", "*")).await.status, 204);
        let first = world.get("/v1/kv/a").await.header("etag").expect("a tag").to_owned();
        let failed = put(("if-none-match", "*")).await;
        assert_eq!(failed.problem().0, 412);
        assert_eq!(failed.header("etag"), Some(first.as_str()));
        let second = put(("if-match", &format!("\"other\", {first}"))).await;
        assert_eq!(second.status, 204);
        assert_eq!(put(("if-match", &first)).await.status, 412, "the old version");
        let second = second.header("etag").expect("a tag").to_owned();
        assert_eq!(put(("if-match", &format!("W/{second}"))).await.status, 412, "a weak tag");
        assert_eq!(put(("if-match", "\"not-a-version\"")).await.status, 412);
        let deleted = world.ask("DELETE", "/v1/kv/a", &[("if-match", &second)]).await;
        assert_eq!(deleted.status, 204);
        let condition = world.fake.last_write().condition;
        assert!(matches!(condition, Some(Condition::VersionIn(versions)) if versions.len() == 1));
    });
}

#[test]
fn malformed_headers_are_refused_by_name() {
    in_a_world(Mode::Leader, |world| async move {
        world.store("a", "1").await;
        let before = world.fake.requests();
        let long_type = "x".repeat(257);
        for (method, name, value) in [
            ("PUT", "If-Match", "unquoted"),
            ("PUT", "If-None-Match", "\"open"),
            ("DELETE", "If-Match", ""),
            ("GET", "If-Match", "unquoted"),
            ("GET", "If-None-Match", "*,*"),
            ("GET", "Quorate-Trace", "yes"),
            ("PUT", "Quorate-Trace", "2"),
            ("PUT", "Content-Range", "bytes 0-1/2"),
            ("PUT", "Content-Type", long_type.as_str()),
            ("PUT", "Content-Type", "caf\u{e9}"),
        ] {
            let answer = world.ask(method, "/v1/kv/a", &[(name, value)]).await;
            assert_eq!(answer.problem(), (400, "bad-header".to_owned()), "{name}");
            assert_eq!(answer.json()["parameter"], name);
        }
        let both = [("if-match", "*"), ("if-none-match", "*")];
        assert_eq!(world.ask("PUT", "/v1/kv/a", &both).await.problem().0, 400);
        assert_eq!(world.fake.requests(), before, "nothing was asked of the replicator");
    });
}

#[test]
fn headers_that_would_be_silently_lost_are_refused() {
    in_a_world(Mode::Leader, |world| async move {
        for (method, ttl) in [("PUT", "soon"), ("PUT", "0s"), ("PUT", "9999d"), ("DELETE", "1s")] {
            let answer = world.ask(method, "/v1/kv/a", &[("Quorate-Ttl", ttl)]).await;
            assert_eq!(answer.problem(), (400, "bad-header".to_owned()), "{ttl}");
            assert_eq!(answer.json()["outcome"], "not_applied");
            assert!(answer.json()["detail"].as_str().expect("a detail").contains("Quorate-Ttl"));
        }
        let gzip = world.ask("PUT", "/v1/kv/a", &[("content-encoding", "gzip")]).await;
        assert_eq!(gzip.problem(), (415, "unsupported-encoding".to_owned()));
        assert_eq!(world.fake.requests(), 0);
    });
}

#[test]
fn conditional_reads() {
    in_a_world(Mode::Leader, |world| async move {
        let etag = world.store("a", "value").await;
        let get = async |headers: &[(&str, &str)]| world.ask("GET", "/v1/kv/a", headers).await;
        let weak = format!("W/{etag}");
        for tags in [etag.as_str(), &weak, "*", &format!("\"x\", {etag}")] {
            let same = get(&[("if-none-match", tags)]).await;
            assert_eq!((same.status.as_u16(), same.body.len()), (304, 0), "{tags}");
            assert_eq!(same.header("etag"), Some(etag.as_str()));
            assert_eq!(same.header("content-type"), None);
            assert_eq!(same.header("quorate-consistency"), Some("linearizable"));
        }
        assert_eq!(get(&[("if-none-match", "\"x\"")]).await.status, 200);
        assert_eq!(get(&[("if-match", &etag)]).await.status, 200);
        assert_eq!(get(&[("if-match", "*")]).await.status, 200);
        for tags in [weak.as_str(), "\"x\""] {
            let failed = get(&[("if-match", tags)]).await;
            assert_eq!(failed.problem(), (412, "precondition-failed".to_owned()), "{tags}");
            assert_eq!(failed.header("etag"), Some(etag.as_str()));
        }
        // RFC 9110, section 13.2.2: If-Match is looked at first.
        assert_eq!(get(&[("if-match", "\"x\""), ("if-none-match", &etag)]).await.status, 412);
        // Section 13.2.1: without the conditions it would be a 404, so it is.
        let missing = world.ask("GET", "/v1/kv/none", &[("if-match", "*")]).await;
        assert_eq!(missing.problem().0, 404);
    });
}

#[test]
fn ranges_of_values() {
    in_a_world(Mode::Leader, |world| async move {
        let etag = world.store("a", "0123456789").await;
        let get = async |headers: &[(&str, &str)]| world.ask("GET", "/v1/kv/a", headers).await;
        let part = get(&[("range", "bytes=2-4")]).await;
        assert_eq!((part.status.as_u16(), &part.body[..]), (206, &b"234"[..]));
        assert_eq!(part.header("content-range"), Some("bytes 2-4/10"));
        assert_eq!(part.header("etag"), Some(etag.as_str()));
        assert_eq!(get(&[("range", "bytes=-3")]).await.body, "789");
        assert_eq!(
            get(&[("range", "bytes=7-")]).await.header("content-range"),
            Some("bytes 7-9/10")
        );
        let beyond = get(&[("range", "bytes=10-")]).await;
        assert_eq!(beyond.problem(), (416, "range-not-satisfiable".to_owned()));
        assert_eq!(beyond.header("content-range"), Some("bytes */10"));
        for ignored in ["bytes=0-1,3-4", "lines=1-2", "bytes=x-", "bytes=4-2"] {
            let whole = get(&[("range", ignored)]).await;
            assert_eq!((whole.status.as_u16(), whole.body.len()), (200, 10), "{ignored}");
        }
        let with_if_range = async |tag: &str| {
            get(&[("range", "bytes=0-0"), ("if-range", tag)]).await.status.as_u16()
        };
        assert_eq!(with_if_range(&etag).await, 206);
        assert_eq!(with_if_range(&format!("W/{etag}")).await, 200);
        assert_eq!(with_if_range("\"x\"").await, 200);
        assert_eq!(with_if_range("Tue, 14 Nov 2023 22:13:20 GMT").await, 200);
        let head = world.ask("HEAD", "/v1/kv/a", &[("range", "bytes=0-0")]).await;
        assert_eq!((head.status.as_u16(), head.header("content-length")), (200, Some("10")));
        // A condition that holds back the value comes before its range.
        let same = get(&[("range", "bytes=0-0"), ("if-none-match", &etag)]).await;
        assert_eq!(same.status, 304);
    });
}

#[test]
fn answers_say_the_level_the_loss_and_where_asked_the_cost() {
    in_a_world(Mode::Leaderless, |world| async move {
        let newer = Version::new(9 << 16, NodeId(3));
        *world.fake.superseded_by.lock().unwrap() = Some(newer);
        let put = world.ask("PUT", "/v1/kv/a", &[("quorate-trace", "1")]).await;
        assert_eq!(put.header("quorate-mode"), Some("leaderless"));
        assert_eq!(put.header("quorate-consistency"), Some("quorum; r=2; w=2; n=3"));
        assert_eq!(put.header("quorate-superseded"), Some(newer.to_string().as_str()));
        assert_eq!(put.header("quorate-messages"), Some("4"));
        assert_eq!(put.header("quorate-acks"), Some("2"));
        assert_eq!(put.header("server-timing"), Some("total;dur=0.000"));
        for (level, said) in [
            (EffectiveLevel::Local, "local"),
            (EffectiveLevel::Lease, "lease"),
            (EffectiveLevel::Quorum { r: 3, w: 1, n: 3 }, "quorum; r=3; w=1; n=3"),
            (EffectiveLevel::Eventual { r: 1, w: 1, n: 3 }, "eventual; r=1; w=1; n=3"),
        ] {
            *world.fake.level.lock().unwrap() = level;
            let got = world.ask("GET", "/v1/kv/a", &[("quorate-trace", "0")]).await;
            assert_eq!(got.header("quorate-consistency"), Some(said));
            assert_eq!(got.header("server-timing"), None);
        }
    });
}

#[test]
fn other_methods_are_refused_with_those_that_are_offered() {
    in_a_world(Mode::Leader, |world| async move {
        for method in ["POST", "PATCH", "OPTIONS", "BREW"] {
            let answer = world.ask(method, "/v1/kv/a", &[]).await;
            assert_eq!(answer.problem(), (405, "method-not-allowed".to_owned()));
            assert_eq!(answer.header("allow"), Some("GET, HEAD, PUT, DELETE"));
        }
        assert_eq!(world.fake.requests(), 0);
    });
}

#[test]
fn a_put_carries_its_bytes_and_type_to_the_replicator() {
    in_a_world(Mode::Leader, |world| async move {
        let typed = [("content-type", "text/plain")];
        world.send(build("PUT", "/v1/kv/a", &typed, "hello".into())).await;
        let change = Change::Put { value: "hello".into(), content_type: Some("text/plain".into()) };
        assert_eq!(world.fake.last_write().change, change);
        world.store("a", "x").await;
        let change = Change::Put { value: "x".into(), content_type: None };
        assert_eq!(world.fake.last_write().change, change);
    });
}

#[test]
fn a_put_says_how_long_it_is_to_hold_and_a_read_until_when() {
    in_a_world(Mode::Leader, |world| async move {
        let request = build("PUT", "/v1/kv/a", &[("Quorate-Ttl", "90m")], "x".into());
        assert_eq!(world.send(request).await.status, 204);
        let change = Change::PutFor { value: "x".into(), content_type: None, ttl_ms: 5_400_000 };
        assert_eq!(world.fake.last_write().change, change);
        for method in ["GET", "HEAD"] {
            let got = world.ask(method, "/v1/kv/a", &[]).await;
            assert_eq!(got.header("last-modified"), Some("Tue, 14 Nov 2023 22:13:20 GMT"));
            assert_eq!(got.header("quorate-expires"), Some("Tue, 14 Nov 2023 23:43:20 GMT"));
        }
        world.store("a", "for good").await;
        assert_eq!(world.get("/v1/kv/a").await.header("quorate-expires"), None);
    });
}
