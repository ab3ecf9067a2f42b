//! Blockers: what keeps rolling work from taking a slot for a node, by the operator's configuration. Here they are read and
//! judged; the facts come in from outside, so that nothing here has a clock or asks anybody.
//!
//! - **nodes**: these are left alone;
//! - **labels**: nodes with one of these are left alone (Kubernetes' equality-based selectors);
//! - **pods**: a node is left alone while such a pod runs on it;
//! - **windows**: nothing begins outside of them;
//! - **a command** of the operator's: it says no for as long as it wants.
//!
//! What cannot be read blocks too: nothing is decided from ignorance.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use beehive_mqtt::{NodeName, Text};
use core::fmt;
use core::str::FromStr;

/// Minutes of a day.
const DAY_MINUTES: u16 = 24 * 60;

/// The days, as they are written.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// What is wrong with a selector or a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// Why, for people.
    pub why: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.why)
    }
}

impl core::error::Error for Malformed {}

/// A label of a node or of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Its key.
    pub key: String,
    /// Its value; often empty.
    pub value: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Term {
    Is(String, String),
    IsNot(String, String),
    Has(String),
    HasNot(String),
}

/// Labels that are looked for: `key`, `!key`, `key=value`, `key!=value`, several with commas, all of which must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    text: String,
    terms: Vec<Term>,
}

impl Selector {
    /// Whether these labels are meant. As in Kubernetes, `key!=value` holds also where there is no such key.
    pub fn matches(&self, labels: &[Label]) -> bool {
        let value = |key: &String| labels.iter().find(|label| label.key == *key).map(|label| label.value.as_str());
        self.terms.iter().all(|term| match term {
            Term::Is(key, wanted) => value(key) == Some(wanted.as_str()),
            Term::IsNot(key, wanted) => value(key) != Some(wanted.as_str()),
            Term::Has(key) => value(key).is_some(),
            Term::HasNot(key) => value(key).is_none(),
        })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Selector {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let part = |text: &str, empty_is: Malformed| {
            let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
            match text {
                "" => Err(empty_is),
                text if text.chars().all(valid) => Ok(text.to_string()),
                _ => Err(Malformed { why: "a key or value holds a character that no label has" }),
            }
        };
        let key = |text: &str| part(text.trim(), Malformed { why: "a key is missing" });
        let value = |text: &str| match text.trim() {
            "" => Ok(String::new()),
            text => part(text, Malformed { why: "" }),
        };
        let mut terms = Vec::new();
        for term in text.split(',') {
            let term = term.trim();
            terms.push(if let Some((name, wanted)) = term.split_once("!=") {
                Term::IsNot(key(name)?, value(wanted)?)
            } else if let Some((name, wanted)) = term.split_once("==").or_else(|| term.split_once('=')) {
                Term::Is(key(name)?, value(wanted)?)
            } else if let Some(name) = term.strip_prefix('!') {
                Term::HasNot(key(name)?)
            } else {
                Term::Has(key(term)?)
            });
        }
        Ok(Self { text: text.to_string(), terms })
    }
}

/// Pods that are looked for: a selector, in one namespace (`data/app=db`) or in all (`app=db`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSelector {
    /// The namespace; all of them without.
    pub namespace: Option<String>,
    /// The labels.
    pub selector: Selector,
}

impl fmt::Display for PodSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}: {}", self.selector),
            None => self.selector.fmt(f),
        }
    }
}

/// A weekly time in which rolling work may begin: `mon-fri 01:00-05:00`, `sat,sun 00:00-24:00`, or `22:00-04:00` for every
/// day. One that ends before it begins goes on into the next day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// By day of its beginning, Monday first.
    days: [Day; 7],
    from: u16,
    until: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Day {
    In,
    Out,
}

/// A minute of the week in the operator's time, Monday 00:00 first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeekMinute(u16);

impl WeekMinute {
    /// Minutes since Monday 00:00; what is beyond the week counts into the next one.
    pub fn new(minutes: u16) -> Self {
        Self(minutes % (7 * DAY_MINUTES))
    }
}

impl Window {
    /// Whether it is open.
    pub fn holds(&self, at: WeekMinute) -> bool {
        let (day, minute) = (usize::from(at.0 / DAY_MINUTES), at.0 % DAY_MINUTES);
        let begins = |day: usize| self.days.get(day % 7) == Some(&Day::In);
        if self.from < self.until {
            return begins(day) && (self.from..self.until).contains(&minute);
        }
        (begins(day) && minute >= self.from) || (begins(day + 6) && minute < self.until)
    }
}

fn day(text: &str) -> Result<usize, Malformed> {
    let found = DAYS.iter().position(|day| text.trim().eq_ignore_ascii_case(day));
    found.ok_or(Malformed { why: "a day is one of mon, tue, wed, thu, fri, sat, sun" })
}

fn minute(text: &str) -> Result<u16, Malformed> {
    let wrong = Malformed { why: "a time is written as 22:30" };
    let (hours, minutes) = text.trim().split_once(':').ok_or_else(|| wrong.clone())?;
    let two = |digits: &str| -> Option<u16> {
        (digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
    };
    let (Some(hours), Some(minutes)) = (two(hours), two(minutes)) else { return Err(wrong) };
    let all = hours.checked_mul(60).and_then(|all| all.checked_add(minutes));
    match all {
        Some(all) if minutes < 60 && all <= DAY_MINUTES => Ok(all),
        Some(_) | None => Err(wrong),
    }
}

impl FromStr for Window {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let text = text.trim();
        let (days_text, times) = match text.rsplit_once(' ') {
            Some((days, times)) => (days.trim(), times),
            None => ("mon-sun", text),
        };
        let mut days = [Day::Out; 7];
        for part in days_text.split(',') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (day(first)?, day(last)?),
                None => (day(part)?, day(part)?),
            };
            let span = (last + 7 - first) % 7;
            for offset in 0..=span {
                if let Some(held) = days.get_mut((first + offset) % 7) {
                    *held = Day::In;
                }
            }
        }
        let (from, until) = times.split_once('-').ok_or(Malformed { why: "a window has a beginning and an end" })?;
        let (from, until) = (minute(from)?, minute(until)?);
        if from == until || from == DAY_MINUTES {
            return Err(Malformed {
                why: "a window ends at another time than it begins; the whole day is 00:00-24:00",
            });
        }
        Ok(Self { days, from, until })
    }
}

/// Whether the operator's command is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AsksCommand {
    /// There is none.
    #[default]
    No,
    /// It is, for each node.
    Yes,
}

/// The operator's blockers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Blockers {
    /// Nodes that are left alone.
    pub nodes: Vec<NodeName>,
    /// Nodes with one of these labels are left alone.
    pub labels: Vec<Selector>,
    /// A node is left alone while one of these pods runs on it.
    pub pods: Vec<PodSelector>,
    /// Nothing begins outside of these; at any time without any.
    pub windows: Vec<Window>,
    /// Whether a command is asked.
    pub command: AsksCommand,
}

/// A pod that runs on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Vec<Label>,
}

/// A node as Kubernetes shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shown {
    /// Its labels.
    pub labels: Vec<Label>,
    /// What runs on it.
    pub pods: Vec<Pod>,
}

/// What the operator's command says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// The node may be taken.
    Go,
    /// It may not, for this reason; also where the command could not be run.
    Stay(Text<120>),
}

/// What was found out about a node. What no blocker asks for need not be found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The node, or why it could not be read.
    pub shown: Result<Shown, Text<120>>,
    /// The time; none while the clock is not set.
    pub minute: Option<WeekMinute>,
    /// What the command says.
    pub command: Said,
}

/// One reason to leave a node alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocker {
    /// It is on the list.
    Listed,
    /// It has such a label.
    Label(String),
    /// Such a pod runs on it.
    Pod {
        /// The pod, with its namespace.
        pod: String,
        /// What it matches.
        selector: String,
    },
    /// It is not the time.
    Window,
    /// Nobody knows what time it is.
    Clock,
    /// The operator's command says so.
    Command(Text<120>),
    /// Its labels and pods could not be read.
    Unread(Text<120>),
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listed => f.write_str("on the list of nodes that are left alone"),
            Self::Label(selector) => write!(f, "label {selector}"),
            Self::Pod { pod, selector } => write!(f, "pod {pod} ({selector})"),
            Self::Window => f.write_str("outside of the time windows"),
            Self::Clock => f.write_str("the master's clock is not set, and there are time windows"),
            Self::Command(said) => write!(f, "the operator's command: {said}"),
            Self::Unread(why) => write!(f, "its labels and pods cannot be read: {why}"),
        }
    }
}

impl Blockers {
    /// Whether there is anything to find out.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether Kubernetes has to be asked.
    pub fn ask_kubernetes(&self) -> bool {
        !self.labels.is_empty() || !self.pods.is_empty()
    }

    /// Everything that keeps rolling work from this node.
    pub fn found(&self, node: &NodeName, facts: &Facts) -> Vec<Blocker> {
        let mut found = Vec::new();
        if self.nodes.contains(node) {
            found.push(Blocker::Listed);
        }
        match &facts.shown {
            Ok(shown) => {
                let labels = self.labels.iter().filter(|selector| selector.matches(&shown.labels));
                found.extend(labels.map(|selector| Blocker::Label(selector.to_string())));
                for wanted in &self.pods {
                    let mut pods = shown.pods.iter().filter(|pod| {
                        wanted.namespace.as_ref().is_none_or(|namespace| *namespace == pod.namespace)
                            && wanted.selector.matches(&pod.labels)
                    });
                    if let Some(pod) = pods.next() {
                        let pod = alloc::format!("{}/{}", pod.namespace, pod.name);
                        found.push(Blocker::Pod { pod, selector: wanted.to_string() });
                    }
                }
            }
            Err(why) if self.ask_kubernetes() => found.push(Blocker::Unread(why.clone())),
            Err(_) => {}
        }
        match facts.minute {
            _ if self.windows.is_empty() => {}
            None => found.push(Blocker::Clock),
            Some(minute) if self.windows.iter().any(|window| window.holds(minute)) => {}
            Some(_) => found.push(Blocker::Window),
        }
        match (self.command, &facts.command) {
            (AsksCommand::No, _) | (AsksCommand::Yes, Said::Go) => {}
            (AsksCommand::Yes, Said::Stay(why)) => found.push(Blocker::Command(why.clone())),
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn labels(text: &str) -> Vec<Label> {
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| Label { key: key.to_string(), value: value.to_string() }).collect()
    }

    #[test]
    fn selectors_mean_what_kubernetes_means_by_them() {
        let of = "app=db,zone=a,empty=";
        for (selector, matches) in [
            ("app=db", true),
            ("app==db", true),
            ("app", true),
            ("!app", false),
            ("app!=db", false),
            ("app!=web", true),
            ("missing!=x", true),
            ("missing", false),
            ("!missing", true),
            ("app=db,zone=b", false),
            (" app = db , zone = a ", true),
            ("empty=", true),
            ("app=", false),
        ] {
            let parsed: Selector = selector.parse().unwrap();
            assert_eq!(parsed.matches(&labels(of)), matches, "{selector}");
        }
        for wrong in ["", ",", "=x", "!", "a b", "a=b=c", "a=b;c", "app in (x)"] {
            assert!(wrong.parse::<Selector>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn windows_hold_by_day_and_over_midnight() {
        let at = |day: u16, hour: u16, minute: u16| WeekMinute::new(day * DAY_MINUTES + hour * 60 + minute);
        let holds = |window: &str, at| window.parse::<Window>().unwrap().holds(at);
        assert!(holds("mon-fri 01:00-05:00", at(0, 1, 0)));
        assert!(holds("mon-fri 01:00-05:00", at(4, 4, 59)));
        assert!(!holds("mon-fri 01:00-05:00", at(4, 5, 0)));
        assert!(!holds("mon-fri 01:00-05:00", at(5, 2, 0)));
        assert!(holds("Sat,Sun 00:00-24:00", at(6, 23, 59)));
        assert!(!holds("sat,sun 00:00-24:00", at(0, 0, 0)));
        assert!(holds("22:00-04:00", at(2, 3, 0)), "every day");
        assert!(!holds("22:00-04:00", at(2, 4, 0)));
        // what began on Sunday goes on into Monday
        assert!(holds("sun 22:00-04:00", at(0, 3, 59)));
        assert!(!holds("sun 22:00-04:00", at(0, 22, 0)));
        assert!(holds("fri-mon 10:00-11:00", at(6, 10, 30)), "over the end of the week");
        assert!(!holds("fri-mon 10:00-11:00", at(2, 10, 30)));
        for wrong in [
            "",
            "mon",
            "01:00",
            "1:00-2:00",
            "25:00-26:00",
            "01:60-02:00",
            "05:00-05:00",
            "24:00-01:00",
            "xyz 01:00-02:00",
        ] {
            assert!(wrong.parse::<Window>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_blocker_is_found_and_named() {
        let node: NodeName = "a".parse().unwrap();
        let facts = Facts {
            shown: Ok(Shown {
                labels: labels("keep="),
                pods: vec![Pod { namespace: "data".into(), name: "db-0".into(), labels: labels("app=db") }],
            }),
            minute: Some(WeekMinute::new(0)),
            command: Said::Stay(Text::cut("backup runs")),
        };
        let all = Blockers {
            nodes: vec![node.clone()],
            labels: vec!["keep".parse().unwrap()],
            pods: vec![PodSelector { namespace: Some("data".into()), selector: "app=db".parse().unwrap() }],
            windows: vec!["01:00-02:00".parse().unwrap()],
            command: AsksCommand::Yes,
        };
        let words: Vec<_> = all.found(&node, &facts).iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            [
                "on the list of nodes that are left alone",
                "label keep",
                "pod data/db-0 (data: app=db)",
                "outside of the time windows",
                "the operator's command: backup runs"
            ]
        );
        let free = Facts { command: Said::Go, minute: Some(WeekMinute::new(61)), shown: Ok(Shown::default()) };
        assert!(all.found(&"b".parse().unwrap(), &free).is_empty());
        let other = PodSelector { namespace: Some("web".into()), selector: "app=db".parse().unwrap() };
        let only = Blockers { pods: vec![other], ..Blockers::default() };
        assert!(only.found(&node, &facts).is_empty(), "another namespace");
        assert!(Blockers::default().found(&node, &facts).is_empty());
    }

    #[test]
    fn what_cannot_be_read_blocks_where_it_matters() {
        let node: NodeName = "a".parse().unwrap();
        let dark = Facts { shown: Err(Text::cut("no answer")), minute: None, command: Said::Go };
        let by_label = Blockers { labels: vec!["keep".parse().unwrap()], ..Blockers::default() };
        assert_eq!(by_label.found(&node, &dark), [Blocker::Unread(Text::cut("no answer"))]);
        let by_time = Blockers { windows: vec!["01:00-02:00".parse().unwrap()], ..Blockers::default() };
        assert_eq!(by_time.found(&node, &dark), [Blocker::Clock]);
        assert!(Blockers { command: AsksCommand::Yes, ..Blockers::default() }.found(&node, &dark).is_empty());
    }
}
