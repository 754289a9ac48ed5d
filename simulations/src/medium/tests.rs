use std::collections::BTreeMap;

use proptest::prelude::*;

use super::units::{Queue, Rate, Share, Span};
use super::*;

const A: HostIx = HostIx(0);
const B: HostIx = HostIx(1);
const C: HostIx = HostIx(2);
const ALL: Mac = Mac([0xff; 6]);
const MDNS: Mac = Mac([0x01, 0x00, 0x5e, 0, 0, 0xfb]);

fn mac(host: HostIx) -> Mac {
    Mac([2, 0, 0, 0, 0, host.0 as u8])
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn medium(hosts: u16, settings: Settings, airtime: Airtime, seed: u64) -> Medium {
    let ids: Vec<HostIx> = (0..hosts).map(HostIx).collect();
    let mut medium = Medium::new(&ids.iter().map(|id| mac(*id)).collect::<Vec<_>>(), airtime, seed);
    for from in &ids {
        for to in &ids {
            medium.order(Order::Set(*from, *to, settings.into())).unwrap();
        }
    }
    medium
}

fn three(settings: Settings) -> Medium {
    medium(3, settings, Airtime::PerPair, 7)
}

fn frame(from: HostIx, to: Mac, bytes: u32) -> Frame {
    Frame { from, to, bytes, ip_bytes: bytes - 14 }
}

fn send(medium: &mut Medium, now: Duration, from: HostIx, to: Mac, bytes: u32) -> Vec<Delivery> {
    let mut out = Vec::new();
    medium.send(now, frame(from, to, bytes), &mut out);
    out
}

fn pair(medium: &Medium, from: HostIx, to: HostIx) -> counters::Pair {
    medium.links().find(|link| (link.from, link.to) == (from, to)).unwrap().counters
}

#[test]
fn a_frame_reaches_whom_it_is_for() {
    let mut medium = three(Settings { delay: ms(5), ..Settings::default() });
    let out = send(&mut medium, ms(1), A, mac(B), 100);
    assert_eq!(out.iter().map(|d| (d.to, d.due)).collect::<Vec<_>>(), [(B, ms(6))]);
    assert!(medium.arrives(&out[0]));
    let group = send(&mut medium, ms(1), B, MDNS, 60);
    assert_eq!(group.iter().map(|d| d.to).collect::<Vec<_>>(), [A, C]);
    assert!(send(&mut medium, ms(1), A, Mac([2, 9, 9, 9, 9, 9]), 60).is_empty());
    assert!(send(&mut medium, ms(1), A, mac(A), 60).is_empty());
    let [a, b, _] = medium.hosts() else { panic!() };
    assert_eq!((a.sent.frames, a.sent.bytes, a.sent.ip_bytes, a.unreachable), (3, 220, 220 - 3 * 14, 2));
    assert_eq!((b.received.bytes, b.sent_group.frames, b.sent.frames), (100, 1, 1));
}

#[test]
fn the_rate_is_kept_to_the_nanosecond() {
    // 1 Mbit/s: 1,250 bytes take 10 ms.
    let rate = Rate::bits_per_second(1_000_000);
    let mut medium = three(Settings { rate, queue_bytes: Some(100_000), ..Settings::default() });
    let dues: Vec<Duration> =
        (0..5).flat_map(|_| send(&mut medium, ms(0), A, mac(B), 1_250)).map(|d| d.due).collect();
    assert_eq!(dues, [ms(10), ms(20), ms(30), ms(40), ms(50)]);
    // The way back, and another receiver, have their own.
    assert_eq!(send(&mut medium, ms(0), B, mac(A), 1_250)[0].due, ms(10));
    assert_eq!(send(&mut medium, ms(0), A, mac(C), 1_250)[0].due, ms(10));
    // After a pause nothing was saved up.
    assert_eq!(send(&mut medium, ms(500), A, mac(B), 1_250)[0].due, ms(510));
}

#[test]
fn a_shared_channel_carries_one_frame_at_a_time_and_multicast_once() {
    let rate = Rate::bits_per_second(1_000_000);
    let mut medium = medium(3, Settings { rate, ..Settings::default() }, Airtime::Shared, 7);
    medium
        .order(Order::Set(A, C, Change { rate: Some(Rate::bits_per_second(500_000)), ..Change::default() }))
        .unwrap();
    assert_eq!(send(&mut medium, ms(0), A, mac(B), 1_250)[0].due, ms(10));
    assert_eq!(send(&mut medium, ms(0), B, mac(C), 1_250)[0].due, ms(20));
    // At the slowest of the two rates: 20 ms.
    let group = send(&mut medium, ms(0), A, ALL, 1_250);
    assert_eq!(group.iter().map(|d| d.due).collect::<Vec<_>>(), [ms(40), ms(40)]);
    // To a host that is out of contact nothing is sent.
    medium.order(Order::Cut(A, C)).unwrap();
    assert!(send(&mut medium, ms(0), A, mac(C), 1_250).is_empty());
    assert_eq!(send(&mut medium, ms(0), A, ALL, 1_250)[0].due, ms(50));
    // Each sender has a queue: A's is full before B's is. A has 3,750 bytes waiting.
    let fits = (31_250 - 3_750) / 1_250;
    for _ in 0..fits {
        assert_eq!(send(&mut medium, ms(0), A, mac(B), 1_250).len(), 1);
    }
    assert!(send(&mut medium, ms(0), A, mac(B), 1_250).is_empty());
    assert_eq!(pair(&medium, A, B).dropped.queue, 1);
    assert_eq!(send(&mut medium, ms(0), B, mac(A), 1_250).len(), 1);
}

#[test]
fn the_queue_has_its_limit_and_an_idle_link_takes_any_frame() {
    let rate = Rate::bits_per_second(8_000);
    let mut medium = three(Settings { rate, queue_bytes: Some(2_500), ..Settings::default() });
    let taken = (0..10).filter(|_| !send(&mut medium, ms(0), A, mac(B), 1_000).is_empty()).count();
    assert_eq!(taken, 2);
    assert_eq!(pair(&medium, A, B).dropped, counters::Drops { queue: 8, ..Default::default() });
    // After a second, one is gone.
    assert_eq!(send(&mut medium, ms(1_000), A, mac(B), 1_000)[0].due, ms(3_000));
    assert!(send(&mut medium, ms(1_999), A, mac(B), 1_000).is_empty());
    assert_eq!(send(&mut medium, ms(9_000), A, mac(B), 60_000).len(), 1);
    // By default the limit follows the rate, also when the rate changes later.
    let default = Settings { rate: Rate::bits_per_second(10_000_000), ..Settings::default() };
    assert_eq!(default.queue_limit_bytes(), 312_500);
    let slower = Change { rate: Some(Rate::bits_per_second(1_000_000)), ..Change::default() };
    assert_eq!(slower.apply(&Change::from(default).apply(&Settings::default())).queue_limit_bytes(), 31_250);
}

#[test]
fn a_cut_loses_what_is_on_its_way_and_what_comes() {
    let mut medium = three(Settings { delay: ms(10), ..Settings::default() });
    let before = send(&mut medium, ms(0), A, mac(B), 100)[0];
    let other = send(&mut medium, ms(0), A, mac(C), 100)[0];
    medium.order(Order::Cut(A, B)).unwrap();
    assert!(send(&mut medium, ms(1), A, mac(B), 100).is_empty());
    assert_eq!(send(&mut medium, ms(1), A, ALL, 100).iter().map(|d| d.to).collect::<Vec<_>>(), [C]);
    medium.order(Order::Heal(A, B)).unwrap();
    assert!(!medium.arrives(&before), "sent before the cut, due after it was healed");
    assert!(medium.arrives(&other));
    let after = send(&mut medium, ms(20), A, mac(B), 100)[0];
    assert!(medium.arrives(&after));
    let counters = pair(&medium, A, B);
    assert_eq!((counters.offered.frames, counters.delivered.frames, counters.dropped.cut), (4, 1, 3));
}

#[test]
fn scheduled_orders_come_in_order_of_time() {
    let mut medium = three(Settings { delay: ms(10), ..Settings::default() });
    medium.schedule(ms(300), Order::HealAll);
    medium.schedule(ms(100), Order::Cut(A, B));
    assert_eq!(medium.next_order_at(), Some(ms(100)));
    let across = send(&mut medium, ms(95), A, mac(B), 100)[0];
    let before = send(&mut medium, ms(85), A, mac(C), 100)[0];
    assert!(medium.arrives(&before));
    assert!(!medium.arrives(&across), "cut at 100 ms, due at 105");
    assert!(send(&mut medium, ms(299), A, mac(B), 100).is_empty());
    assert_eq!(send(&mut medium, ms(300), A, mac(B), 100).len(), 1);
    assert_eq!(medium.next_order_at(), None);
}

#[test]
fn what_a_receiver_refused_is_not_counted_as_arrived() {
    let mut medium = three(Settings::default());
    let delivery = send(&mut medium, ms(0), A, mac(B), 100)[0];
    assert!(medium.arrives(&delivery));
    medium.refused(&delivery);
    assert_eq!(medium.hosts()[1].received, counters::Tally::default());
    assert_eq!(pair(&medium, A, B).dropped.refused, 1);
}

#[test]
fn impossible_settings_change_nothing() {
    let mut medium = three(Settings { delay: ms(10), ..Settings::default() });
    let order = |change| Order::Set(A, B, change);
    let jitter = Change { jitter: Some(Span(ms(11))), ..Change::default() };
    assert!(medium.order(order(jitter)).unwrap_err().to_string().contains("jitter 11ms"));
    let reorder =
        Change { delay: Some(Span(ms(0))), reorder: Some(Share::percent(1.0)), ..Change::default() };
    assert!(medium.order(order(reorder)).is_err());
    assert_eq!(send(&mut medium, ms(0), A, mac(B), 100)[0].due, ms(10));
}

#[test]
fn delay_and_jitter_are_as_asked_when_frames_are_far_apart() {
    let mut medium = three(Settings { delay: ms(50), jitter: ms(20), ..Settings::default() });
    let delays: Vec<f64> = (0..20_000_u64)
        .map(|n| {
            let now = ms(100 * n);
            (send(&mut medium, now, A, mac(B), 100)[0].due - now).as_secs_f64() * 1e3
        })
        .collect();
    let mean = delays.iter().sum::<f64>() / delays.len() as f64;
    let (least, most) = delays.iter().fold((f64::MAX, 0.0_f64), |(a, b), d| (a.min(*d), b.max(*d)));
    assert!((mean - 50.0).abs() < 0.5, "mean {mean}");
    assert!((30.0..30.1).contains(&least) && (69.9..=70.0).contains(&most), "{least} to {most}");
}

#[test]
fn reordered_frames_are_as_many_as_asked_and_overtake() {
    let mut medium = three(Settings { delay: ms(50), reorder: Share::percent(5.0), ..Settings::default() });
    let dues: Vec<Duration> =
        (0..40_000_u64).map(|n| send(&mut medium, ms(n), A, mac(B), 100)[0].due).collect();
    let overtaking = dues.iter().zip(0_u64..).filter(|(due, sent)| **due == ms(*sent)).count();
    assert!((1_850..2_150).contains(&overtaking), "{overtaking}");
    assert!(dues.windows(2).any(|two| two[1] < two[0]));
}

#[test]
fn losses_of_a_pair_do_not_depend_on_what_others_say() {
    let loss = Loss::bursts(Share::percent(20.0), 3.0).unwrap();
    let fate = |medium: &mut Medium, chatter: bool| {
        (0..500_u64)
            .map(|n| {
                if chatter {
                    send(medium, ms(n), C, ALL, 60);
                }
                send(medium, ms(n), A, mac(B), 100).len()
            })
            .collect::<Vec<_>>()
    };
    let settings = Settings { loss, ..Settings::default() };
    let alone = fate(&mut three(settings), false);
    assert_eq!(alone, fate(&mut three(settings), true));
    assert_ne!(alone, fate(&mut medium(3, settings, Airtime::PerPair, 8), false), "another seed");
}

#[derive(Debug, Clone)]
enum Step {
    Send(u16, u8, u32),
    Cut(u16, u16),
    Heal(u16, u16),
    Set(u16, u16, u32, u64),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0_u16..4, 0_u8..6, 60_u32..1_500).prop_map(|(from, to, bytes)| Step::Send(from, to, bytes)),
        1 => (0_u16..4, 0_u16..4).prop_map(|(from, to)| Step::Cut(from, to)),
        1 => (0_u16..4, 0_u16..4).prop_map(|(from, to)| Step::Heal(from, to)),
        1 => (0_u16..4, 0_u16..4, 1_u32..2_000, 0_u64..40).prop_map(|(f, t, kbit, ms)| Step::Set(f, t, kbit, ms)),
        4 => (0_u64..30_000).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..200)
}

/// All deliveries of a run, in order of sending, with whether they arrived; and the medium at its end.
fn replay(steps: &[Step], airtime: Airtime, seed: u64) -> (Vec<(Delivery, bool)>, Medium) {
    let loss = Loss::Random(Share::percent(10.0));
    let settings = Settings {
        rate: Rate::bits_per_second(500_000),
        delay: ms(20),
        jitter: ms(10),
        loss,
        queue_bytes: Some(4_000),
        ..Settings::default()
    };
    let mut medium = medium(4, settings, airtime, seed);
    let (mut now, mut out, mut arrived) = (Duration::ZERO, Vec::new(), Vec::new());
    let mut on_the_way: BTreeMap<(Duration, usize), Delivery> = BTreeMap::new();
    let mut sent = 0;
    let mut settle = |medium: &mut Medium, way: &mut BTreeMap<(Duration, usize), Delivery>, now| {
        while let Some(first) = way.first_entry().filter(|first| first.key().0 <= now) {
            let delivery = first.remove();
            arrived.push((delivery, medium.arrives(&delivery)));
        }
    };
    for step in steps {
        match *step {
            Step::Send(from, to, bytes) => {
                let to = match to {
                    4 => ALL,
                    host => mac(HostIx(u16::from(host))),
                };
                medium.send(now, frame(HostIx(from), to, bytes), &mut out);
                for delivery in out.drain(..) {
                    on_the_way.insert((delivery.due, sent), delivery);
                    sent += 1;
                }
            }
            Step::Cut(a, b) => medium.order(Order::Cut(HostIx(a), HostIx(b))).unwrap(),
            Step::Heal(a, b) => medium.order(Order::Heal(HostIx(a), HostIx(b))).unwrap(),
            Step::Set(a, b, kbit, delay_ms) => {
                let change = Change {
                    rate: Some(Rate::bits_per_second(u64::from(kbit) * 1_000)),
                    delay: Some(Span(ms(delay_ms))),
                    jitter: Some(Span(ms(delay_ms / 2))),
                    queue: Some(Queue(Some(u64::from(kbit) * 10))),
                    ..Change::default()
                };
                medium.order(Order::Set(HostIx(a), HostIx(b), change)).unwrap();
            }
            Step::Wait(us) => {
                now += Duration::from_micros(us);
                settle(&mut medium, &mut on_the_way, now);
            }
        }
    }
    settle(&mut medium, &mut on_the_way, Duration::MAX);
    (arrived, medium)
}

proptest! {
    #[test]
    fn a_seed_fixes_a_run(steps in steps(), seed in any::<u64>(), shared in any::<bool>()) {
        let airtime = if shared { Airtime::Shared } else { Airtime::PerPair };
        let (first, one) = replay(&steps, airtime, seed);
        let (second, two) = replay(&steps, airtime, seed);
        prop_assert_eq!(first, second);
        prop_assert_eq!(one.hosts(), two.hosts());
        prop_assert!(one.links().eq(two.links()));
    }

    #[test]
    fn no_frame_goes_missing_uncounted(
        steps in steps(), seed in any::<u64>(), shared in any::<bool>(),
    ) {
        let airtime = if shared { Airtime::Shared } else { Airtime::PerPair };
        let (arrived, medium) = replay(&steps, airtime, seed);
        for link in medium.links() {
            let counters = link.counters;
            prop_assert_eq!(counters.offered.frames, counters.delivered.frames + counters.dropped.total());
            prop_assert_eq!(counters.dropped.refused, 0);
        }
        let delivered: u64 = medium.links().map(|link| link.counters.delivered.bytes).sum();
        prop_assert_eq!(delivered, medium.hosts().iter().map(|host| host.received.bytes).sum::<u64>());
        let passed = arrived.iter().filter(|(_, arrives)| *arrives).count() as u64;
        prop_assert_eq!(passed, medium.links().map(|link| link.counters.delivered.frames).sum::<u64>());
    }

    #[test]
    fn in_the_order_of_sending(
        gaps_us in prop::collection::vec(0_u64..20_000, 2..100), kbit in 1_u64..20_000, delay_ms in 1_u64..100,
        seed in any::<u64>(),
    ) {
        let settings = Settings {
            rate: Rate::bits_per_second(kbit * 1_000), delay: ms(delay_ms), jitter: ms(delay_ms), ..Settings::default()
        };
        let mut medium = medium(2, settings, Airtime::PerPair, seed);
        let (mut now, mut last, mut sent_bits) = (ms(0), ms(0), 0);
        for gap in gaps_us {
            now += Duration::from_micros(gap);
            for delivery in send(&mut medium, now, A, mac(B), 1_000) {
                prop_assert!(delivery.due >= last, "{:?} before {last:?}", delivery.due);
                last = delivery.due;
                sent_bits += 8_000;
                // Never faster than the rate allows (1 ns for rounding each frame).
                let least = Duration::from_secs_f64(sent_bits as f64 / (kbit * 1_000) as f64);
                prop_assert!(delivery.due + Duration::from_nanos(200) >= least);
            }
        }
    }
}
