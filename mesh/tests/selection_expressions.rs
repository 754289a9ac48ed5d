//! Expressions from configuration: what they can say, what is refused and where, and that none of them does harm.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]

use std::time::Duration;

use mesh::NodeId;
use mesh::advert::Load;
use mesh::selection::expression::{Expression, Facts, Kind, MAX_BYTES, NAMES, NoValue};
use mesh::selection::{
    Candidate, Link, Need, Offer, Policy, Settings, Verdict, completion, completion::Role,
};
use proptest::prelude::*;

fn need() -> Need {
    Need::of("speech".parse().unwrap())
}

fn candidate(id: u8, rtt_ms: Option<u64>) -> Candidate {
    let load =
        Load { cpu_used_millis: 500, cpu_total_millis: 2000, memory_free_bytes: 1 << 30, ..Load::default() };
    let link = Link { rtt: rtt_ms.map(Duration::from_millis), ..Link::default() };
    Candidate::unknown(NodeId::from_bytes([id; 16]), &format!("node-{id}"), load, link, Offer::Cached)
}

fn number(source: &str) -> Result<f64, NoValue> {
    let (need, candidate) = (need(), candidate(1, Some(20)));
    let completion = completion(&need, &candidate, Role::New);
    let facts = Facts { need: &need, candidate: &candidate, completion: completion.as_ref() };
    Expression::new(source, Kind::Number).map_err(|error| error.to_string()).unwrap().number(&facts)
}

fn problem(source: &str, kind: Kind) -> String {
    Expression::new(source, kind).unwrap_err().to_string()
}

#[test]
fn expressions_compute_with_floating_point_and_choose() {
    for (source, expected) in [
        ("1/2", 0.5),
        ("-link.rtt_ms", -20.0),
        ("1 / (1 + link.rtt_ms / 20)", 0.5),
        ("cloudlet.cpu_free_cores * 100", 150.0),
        ("min(1, 2) + max(3, 4) * clamp(7, 0, 5)", 21.0),
        ("service.state == \"cached\" ? 1 : 0", 1.0),
        ("service.state in [\"running\", \"base\"] ? 1 : 0", 0.0),
        ("has(link.rate_bytes_per_s) ? link.rate_bytes_per_s : 7", 7.0),
        ("!cloudlet.draining && cloudlet.instances < 1 ? 2.5 : 0", 2.5),
        ("(1 > 2 || 2 >= 2) && 1 != 2 ? 1 : 0", 1.0),
        ("1 - 2 - 3", -4.0),
    ] {
        assert_eq!(number(source), Ok(expected), "{source}");
    }
}

#[test]
fn what_is_not_known_has_no_value_and_no_number_is_none() {
    assert_eq!(number("link.rate_bytes_per_s + 1"), Err(NoValue::NotKnown(vec!["link.rate_bytes_per_s"])));
    assert_eq!(number("1 / 0"), Err(NoValue::NoNumber));
    assert_eq!(number("0 / 0"), Err(NoValue::NoNumber));
    assert_eq!(number("0/0 < 1 ? 1 : 2"), Err(NoValue::NoNumber));
    // As in CEL: if one side decides, the other does not matter.
    assert_eq!(number("link.rtt_ms < 50 || link.rate_bytes_per_s > 5 ? 1 : 0"), Ok(1.0));
}

#[test]
fn mistakes_are_named_with_their_place_and_what_was_meant() {
    use Kind::{Flag, Number};
    for (source, kind, expected) in [
        ("1 + link.rtt_m", Number, "unknown name 'link.rtt_m'; did you mean 'link.rtt_ms'? at column 5"),
        ("cloudlet.rtt_ms", Number, "did you mean 'link.rtt_ms'? at column 1"),
        ("rtt", Number, "unknown name 'rtt'; names have two parts"),
        ("has(link.rate)", Flag, "unknown name 'link.rate'"),
        ("mx(1, 2)", Number, "unknown function 'mx'; did you mean 'max'?"),
        ("max(1)", Number, "max takes two numbers"),
        ("link.rtt_ms < 200", Number, "it must give a number, but it gives true or false at column 1"),
        ("link.rtt_ms", Flag, "it must give true or false, but it gives a number"),
        ("link.rtt_ms + cloudlet.name", Number, "a number is needed here, but this is text"),
        ("cloudlet.name == 3", Flag, "cannot compare text with a number"),
        ("link.rtt_ms ? 1 : 2", Number, "before '?' must be true or false"),
        ("cloudlet.draining ? 1 : \"a\"", Number, "one way gives a number, the other text"),
        ("1 +", Number, "syntax error"),
        ("", Number, "at column 1"),
        ("1 % 2", Number, "% is not allowed"),
        ("link.rtt_ms.foo", Number, "names have two parts"),
        ("\"a\" + \"b\" == \"ab\"", Flag, "a number is needed here, but this is text"),
        ("[1, 2].map(x, x * 2) == [2, 4]", Flag, "loops over lists are not allowed"),
        ("[1, 2].all(x, x > 0)", Flag, "loops over lists are not allowed"),
        ("cloudlet.name.contains(\"a\")", Flag, "methods such as '.contains()' are not allowed"),
        ("{1: 2}[1]", Number, "this operator is not allowed"),
        ("max(1, 2, 3)", Number, "max takes two numbers"),
        ("size(\"abc\")", Number, "unknown function 'size'"),
        ("b\"abc\" == b\"abc\"", Flag, "only numbers, texts, true and false"),
    ] {
        let found = problem(source, kind);
        assert!(found.contains(expected), "{source}: {found}");
    }
    let long = format!("1{}", " + 1".repeat(MAX_BYTES / 4 + 1));
    assert!(problem(&long, Number).contains("longer than 1000 bytes"));
}

#[test]
fn a_bad_policy_is_refused_when_it_is_loaded_and_an_unknown_figure_is_no_surprise_later() {
    let policy = |text: &str| {
        let settings: Settings = toml::from_str(text).unwrap();
        Policy::new(&settings).map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            format!("{error}: {cause}")
        })
    };
    for (text, expected) in [
        ("require = 'link.rtt < 200'", "bad selection.require: unknown name 'link.rtt'"),
        ("utility = 'measure.complexion'", "did you mean 'measure.completion'?"),
        ("weights = { complexion = 1 }", "did you mean 'completion'?"),
        ("weights = { completion = -1 }", "none negative"),
        ("weights = { rtt = 1 }\nutility = 'rtt'", "give one of them"),
        ("hysteresis = { margin = 2 }", "give a number from 0 to 1"),
    ] {
        let found = policy(text).unwrap_err();
        assert!(found.contains(expected), "{text}: {found}");
    }
    assert!(toml::from_str::<Settings>("utilty = 'rtt'").unwrap_err().to_string().contains("utilty"));

    let policy = policy("require = 'link.rtt_ms < 200'\nutility = '-link.rtt_ms'").unwrap();
    let all = [candidate(1, Some(300)), candidate(2, Some(50)), candidate(3, None), candidate(4, Some(20))];
    let choice = policy.choose(&need(), &all, None);
    let order: Vec<&str> = choice.considered.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(order, ["node-4", "node-2", "node-1", "node-3"], "{choice}");
    assert_eq!(choice.considered[0].verdict, Verdict::Best);
    let text = choice.to_string();
    assert!(text.contains("does not meet 'link.rtt_ms < 200' (link.rtt_ms = 300)"), "{text}");
    assert!(text.contains("does not meet 'link.rtt_ms < 200' (link.rtt_ms not known)"), "{text}");
    assert!(text.contains("has no score: link.rtt_ms not known"), "{text}");
}

#[test]
fn every_name_can_be_used_and_keeps_its_kind() {
    let (need, candidate) = (need(), candidate(1, Some(20)));
    let completion = completion(&need, &candidate, Role::New);
    let facts = Facts { need: &need, candidate: &candidate, completion: completion.as_ref() };
    for name in NAMES {
        let source = match name.kind {
            Kind::Number => format!("{0} >= {0}", name.path),
            Kind::Flag => format!("{0} == {0}", name.path),
            Kind::Text => format!("{0} == {0}", name.path),
        };
        let value = Expression::new(&source, Kind::Flag).unwrap().flag(&facts);
        let expected = match name.value(&facts) {
            Some(_) => Ok(true),
            None => Err(NoValue::NotKnown(vec![name.path])),
        };
        assert_eq!(value, expected, "{}", name.path);
    }
}

/// The worst that fits the length: deep, wide, and what makes parsers try again and again.
#[test]
fn hostile_expressions_end_soon() {
    let hostile = [
        "(".repeat(MAX_BYTES),
        format!("{}1{}", "(".repeat(400), ")".repeat(400)),
        format!("{}1{}", "[".repeat(400), "]".repeat(400)),
        "-".repeat(MAX_BYTES),
        "!".repeat(MAX_BYTES),
        format!("{}true", "! ".repeat(400)),
        format!("1{}", "+1".repeat(499)),
        format!("1{}", "+1".repeat(100)),
        format!("1{}", "+1".repeat(31)),
        format!("{}1{}", "(1+".repeat(15), ")".repeat(15)),
        format!("true{}", "||true".repeat(50)),
        format!("{}1{}", "(1+".repeat(20), ")".repeat(20)),
        format!("{}1{}", "max(1,".repeat(20), ")".repeat(20)),
        format!("true{}", "?true:true".repeat(99)),
        format!("1{}", "?1".repeat(400)),
        "a.".repeat(500),
        "[1,2,3].map(x,".repeat(60),
        format!("{}[1]{}", "[1,2,3].map(x,".repeat(15), ")".repeat(15)),
        "\"".repeat(MAX_BYTES),
        "/*".repeat(400),
        "min(1,".repeat(150),
        "\u{0}".repeat(10),
        "9".repeat(MAX_BYTES),
        "1e999".to_owned(),
        "9223372036854775808".to_owned(),
        "has(has(has(link.rtt_ms)))".to_owned(),
        "\u{202e}\u{1f4a5}".repeat(100),
    ];
    let began = std::thread::Builder::new().stack_size(1 << 20);
    // A thread with half the stack of a usual one, so that recursion would show.
    let thread = began.spawn(move || {
        for source in &hostile {
            for kind in [Kind::Number, Kind::Flag] {
                if let Ok(expression) = Expression::new(source, kind) {
                    let (need, candidate) = (need(), candidate(1, Some(20)));
                    let facts = Facts { need: &need, candidate: &candidate, completion: None };
                    let _ = (expression.number(&facts), expression.flag(&facts));
                }
            }
        }
    });
    thread.unwrap().join().unwrap();
}

fn soup() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        prop::sample::select(vec![
            "link.rtt_ms",
            "cloudlet.name",
            "has(",
            "min(",
            "max(",
            "(",
            ")",
            "[",
            "]",
            "{",
            "}",
            "?",
            ":",
            "+",
            "-",
            "*",
            "/",
            "%",
            "<",
            ">",
            "==",
            "!=",
            "&&",
            "||",
            "!",
            "in",
            ",",
            ".",
            "\"",
            "'",
            "1",
            "0.5",
            "1e9",
            "u",
            "true",
            "null",
            "\\",
            "x",
            ".map(",
            ".exists(",
            "//",
            "\n",
            "service.state",
            "measure.rtt",
        ])
        .prop_map(str::to_owned),
        any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(word, 0..60).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_and_what_is_accepted_can_be_used(source in soup()) {
        let (need, candidate) = (need(), candidate(1, None));
        let facts = Facts { need: &need, candidate: &candidate, completion: None };
        if let Ok(expression) = Expression::new(&source, Kind::Number) {
            prop_assert_eq!(expression.number(&facts), expression.number(&facts));
        }
        if let Ok(expression) = Expression::new(&source, Kind::Flag) {
            prop_assert_eq!(expression.flag(&facts), expression.flag(&facts));
        }
    }
}
