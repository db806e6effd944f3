//! Frames, whole and broken, in pieces and from strangers.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Feeds `bytes` in pieces of the given lengths, over and over; gives the messages, or the error.
fn decode(bytes: &[u8], pieces: &[usize]) -> Result<Vec<Message>, FrameError> {
    let mut decoder = Decoder::for_messages();
    let mut buffer = BytesMut::new();
    let mut messages = Vec::new();
    let mut rest = bytes;
    let mut pieces = pieces.iter().cycle();
    while !rest.is_empty() {
        let piece = pieces.next().copied().unwrap_or(1).clamp(1, rest.len());
        buffer.extend_from_slice(&rest[..piece]);
        rest = &rest[piece..];
        while let Some(message) = decoder.next(&mut buffer)? {
            messages.push(message);
        }
        assert!(decoder.partial_bytes <= MAX_PARTIAL_BYTES);
        assert!(decoder.partial.len() <= MAX_PARTIAL_MESSAGES);
        let held: usize = decoder.partial.values().map(|(_, part)| part.len()).sum();
        assert_eq!(held, decoder.partial_bytes);
        assert!(decoder.missing(&buffer) <= MAX_FRAME_BYTES);
        assert!(decoder.missing(&buffer) > 0, "a whole frame was left in the buffer");
    }
    assert!(buffer.len() < MAX_FRAME_BYTES);
    Ok(messages)
}

fn frame(kind: u8, id: u64, part: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_header(&mut out, Kind::Request, id, part.len(), false);
    out[4] = kind;
    out.put_slice(part);
    out.to_vec()
}

fn a_message() -> impl Strategy<Value = Message> {
    let kinds = prop_oneof![Just(Kind::Request), Just(Kind::Answer), Just(Kind::Ping)];
    let bodies = prop_oneof![
        8 => vec(any::<u8>(), 0..200),
        1 => (0..3 * MAX_FRAME_BYTES, any::<u8>()).prop_map(|(bytes, fill)| vec![fill; bytes]),
    ];
    (kinds, any::<u64>(), bodies).prop_map(|(kind, id, body)| {
        let body = if kind == Kind::Ping { Vec::new() } else { body };
        Message { kind, id, payload: body.into() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn messages_come_out_as_they_went_in_however_the_bytes_are_cut(
        messages in vec(a_message(), 0..8),
        pieces in vec(1usize..100_000, 1..6),
        head in 0usize..MAX_HEAD_BYTES,
    ) {
        let mut bytes = BytesMut::new();
        for message in &messages {
            let (head, body) = message.payload.split_at(head.min(message.payload.len()));
            encode(&mut bytes, message.kind, message.id, head, body);
        }
        prop_assert_eq!(decode(&bytes, &pieces), Ok(messages));
    }

    #[test]
    fn any_bytes_are_messages_or_an_error(bytes in vec(any::<u8>(), 0..2_000)) {
        let _ = decode(&bytes, &[7, 64, 1]);
    }

    #[test]
    fn frames_with_any_content_are_messages_or_an_error(
        frames in vec((0u8..9, any::<bool>(), 0u64..6, vec(any::<u8>(), 0..40)), 0..40),
        pieces in vec(1usize..60, 1..4),
    ) {
        let bytes: Vec<u8> = frames
            .iter()
            .flat_map(|(kind, more, id, part)| {
                frame(kind | if *more { MORE } else { 0 }, *id, part)
            })
            .collect();
        let one_by_one = decode(&bytes, &[1]);
        prop_assert_eq!(&decode(&bytes, &pieces), &one_by_one);
        for message in one_by_one.into_iter().flatten() {
            let _ = RequestHead::decode(&message.payload);
            let _ = WireAnswer::decode(message.payload);
        }
    }

    #[test]
    fn requests_and_answers_come_out_as_they_went_in(
        service in any::<u8>(),
        epoch in proptest::option::of(any::<u64>()),
        time_left_ms in any::<u32>(),
        id in any::<u64>(),
        body in vec(any::<u8>(), 0..300),
    ) {
        let head = RequestHead { service, epoch: epoch.map(Epoch), time_left_ms };
        let body = Bytes::from(body);
        let mut bytes = BytesMut::new();
        head.encode(&mut bytes, id, &body);
        let messages = decode(&bytes, &[9])?;
        prop_assert_eq!(messages.len(), 1);
        prop_assert_eq!((messages[0].kind, messages[0].id), (Kind::Request, id));
        prop_assert_eq!(RequestHead::decode(&messages[0].payload), Ok((head, body.clone())));

        let reason = String::from_utf8_lossy(&body).into_owned();
        for answer in [
            WireAnswer::Body(body),
            WireAnswer::Refused(reason.clone()),
            WireAnswer::GivenUp(reason),
        ] {
            let mut bytes = BytesMut::new();
            answer.encode(&mut bytes, id);
            let messages = decode(&bytes, &[5])?;
            prop_assert_eq!(WireAnswer::decode(messages[0].payload.clone()), Ok(answer));
        }
    }
}

#[test]
fn parts_of_different_messages_may_be_interleaved() {
    let bytes = [
        frame(Kind::Answer as u8 | MORE, 1, b"on"),
        frame(Kind::Answer as u8 | MORE, 2, b"tw"),
        frame(Kind::Answer as u8, 3, b"three"),
        frame(Kind::Answer as u8, 2, b"o"),
        frame(Kind::Answer as u8, 1, b"e"),
    ]
    .concat();
    let messages = decode(&bytes, &[3]).expect("frames");
    let payloads: Vec<_> = messages.iter().map(|message| &message.payload[..]).collect();
    assert_eq!(payloads, [&b"three"[..], b"two", b"one"]);
}

#[test]
fn what_is_kept_for_messages_in_part_is_bounded() {
    let part = vec![0; MAX_PART_BYTES];
    let flood = |ids: u64| {
        let mut decoder = Decoder::for_messages();
        let mut buffer = BytesMut::new();
        for number in 0..10_000 {
            buffer.extend_from_slice(&frame(Kind::Request as u8 | MORE, number % ids, &part));
            match decoder.next(&mut buffer) {
                Ok(message) => assert_eq!(message, None),
                Err(error) => return (error, decoder.partial_bytes),
            }
        }
        panic!("10,000 frames of messages that do not end were all kept");
    };
    for (ids, most) in [(1, MAX_PAYLOAD_BYTES), (3, MAX_PARTIAL_BYTES), (1_000, 5 * part.len())] {
        let (error, kept) = flood(ids);
        assert_eq!(error, FrameError::TooMuchInPart);
        assert!(kept <= most, "{kept} bytes were kept for {ids} messages");
    }
}

#[test]
fn a_message_of_the_limit_passes_and_a_longer_one_does_not() {
    let head = RequestHead { service: 255, epoch: Some(Epoch(u64::MAX)), time_left_ms: u32::MAX };
    let mut bytes = BytesMut::new();
    head.encode(&mut bytes, 1, &vec![7; MAX_MESSAGE_BYTES]);
    assert_eq!(decode(&bytes, &[MAX_FRAME_BYTES]).expect("frames").len(), 1);
    let mut bytes = BytesMut::new();
    head.encode(&mut bytes, 1, &vec![7; MAX_MESSAGE_BYTES + MAX_HEAD_BYTES]);
    assert_eq!(decode(&bytes, &[MAX_FRAME_BYTES]), Err(FrameError::TooMuchInPart));
}

#[test]
fn lengths_out_of_bounds_are_known_from_the_first_four_bytes() {
    for said in [0, 8, MAX_FRAME_BYTES as u32 - 3, u32::MAX] {
        let error = decode(&said.to_le_bytes(), &[4]);
        assert!(matches!(error, Err(FrameError::Length { .. })), "{said}: {error:?}");
    }
    for said in [9, MAX_FRAME_BYTES as u32 - 4] {
        assert_eq!(decode(&said.to_le_bytes(), &[4]), Ok(vec![]));
    }
}

#[test]
fn a_sign_of_life_has_one_frame_and_no_empty_part_is_followed_by_more() {
    let split_ping = frame(Kind::Ping as u8 | MORE, 0, b"x");
    assert_eq!(decode(&split_ping, &[4]), Err(FrameError::Split(Kind::Ping)));
    let empty_part = frame(Kind::Request as u8 | MORE, 0, b"");
    assert_eq!(decode(&empty_part, &[4]), Err(FrameError::Split(Kind::Request)));
}

#[test]
fn the_bytes_of_a_request_and_an_answer_stay_what_they_are() {
    let head = RequestHead { service: 7, epoch: Some(Epoch(1)), time_left_ms: 300 };
    let mut out = BytesMut::new();
    head.encode(&mut out, 0x0102, b"body");
    let request =
        [&[18, 0, 0, 0, 4, 2, 1, 0, 0, 0, 0, 0, 0][..], &[7, 1, 1, 0xac, 0x02], b"body"].concat();
    assert_eq!(&out[..], &request);
    let mut out = BytesMut::new();
    WireAnswer::Refused("no".to_owned()).encode(&mut out, 3);
    assert_eq!(&out[..], [12, 0, 0, 0, 5, 3, 0, 0, 0, 0, 0, 0, 0, 1, b'n', b'o']);
}

#[test]
fn time_left_is_rounded_up_to_whole_milliseconds() {
    let cases = [(0, 0), (1, 1), (1_000_000, 1), (1_000_001, 2), (5_000_000_000, 5_000)];
    for (nanos, ms) in cases {
        assert_eq!(whole_ms(Duration::from_nanos(nanos)), ms);
    }
    assert_eq!(whole_ms(Duration::from_secs(u64::MAX)), u32::MAX);
}
