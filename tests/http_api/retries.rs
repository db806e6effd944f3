//! `Idempotency-Key`: what of it reaches the replicator, and what is refused before.

use quorate::types::{Mode, RetryKey};

use crate::world::in_a_world;

const NAME: &str = "idempotency-key";

#[test]
fn a_key_goes_with_the_write_and_is_bound_to_all_of_the_request() {
    in_a_world(Mode::Leader, |world| async move {
        let ask = async |method: &str, path: &str, more: &[(&str, &str)]| -> RetryKey {
            let headers = [&[(NAME, "order-17/a")], more].concat();
            let answer = world.ask(method, path, &headers).await;
            assert!(matches!(answer.status.as_u16(), 204 | 412), "{method} {path} {more:?}");
            world.fake.last_write().retry.expect("a retry key")
        };
        let first = ask("PUT", "/v1/kv/a", &[]).await;
        assert_eq!((first.key.as_str(), first.expiry_ms), ("order-17/a", 900_000));
        assert_eq!(ask("PUT", "/v1/kv/a?timeout=1s", &[]).await, first, "the same request");
        let others = [
            ask("DELETE", "/v1/kv/a", &[]).await,
            ask("PUT", "/v1/kv/b", &[]).await,
            ask("PUT", "/v1/kv/a", &[("content-type", "text/plain")]).await,
            ask("PUT", "/v1/kv/a", &[("if-match", "*")]).await,
            ask("PUT", "/v1/kv/a", &[("if-none-match", "*")]).await,
        ];
        let mut digests: Vec<_> = others.iter().map(|retry| retry.digest).collect();
        digests.push(first.digest);
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), 6);
        world.put("/v1/kv/a", "1").await;
        assert_eq!(world.fake.last_write().retry, None);
    });
}

#[test]
fn what_is_no_key_is_refused_and_named() {
    in_a_world(Mode::Leader, |world| async move {
        let long = "x".repeat(129);
        for bad in ["", "a b", "\u{e9}", long.as_str()] {
            let answer = world.ask("PUT", "/v1/kv/a", &[(NAME, bad)]).await;
            assert_eq!(answer.problem(), (400, "bad-header".to_owned()), "{bad:?}");
            assert_eq!(answer.json()["parameter"], "Idempotency-Key");
            assert_eq!(answer.json()["outcome"], "not_applied");
        }
        let twice = world.ask("DELETE", "/v1/kv/a", &[(NAME, "a"), (NAME, "a")]).await;
        assert_eq!(twice.problem(), (400, "bad-header".to_owned()));
        let batch = world.ask("POST", "/v1/batch", &[(NAME, "a")]).await;
        assert_eq!(batch.problem(), (400, "bad-header".to_owned()));
        assert_eq!(world.fake.requests(), 0);
        let longest = world.ask("PUT", "/v1/kv/a", &[(NAME, &long[1..])]).await;
        assert_eq!(longest.status.as_u16(), 204);
    });
}
