//! Certificates for operators.

use super::*;

fn kubeconfig() -> Ask {
    use beehive_mqtt::sign::{ClientKey, ClientProof, SealKey};
    Ask::Kubeconfig { seal: SealKey([1; 32]), client: ClientKey([2; 65]), proof: ClientProof([3; 64]) }
}

/// Asks, and is not answered at once unless something is wrong.
fn asks_for_access(desk: &mut Desk, id: &str, mode: Mode) -> Option<ConsoleResponse> {
    let request = ConsoleRequest { id: id.parse().unwrap(), nonce: desk.core.session().nonce, mode, ask: kubeconfig() };
    desk.step(Event::Console { user: "ops".parse().unwrap(), key: KEY, request });
    desk.answers.pop()
}

fn certified(desk: &mut Desk, outcome: Result<SealedAccess, KubeError>) -> Option<ConsoleResponse> {
    let (user, key, request) = desk.certifies.pop().unwrap();
    desk.step(Event::Certified { user, key, request, outcome });
    desk.answers.pop()
}

#[test]
fn a_certificate_is_issued_once_and_its_answer_given_as_often_as_it_is_asked_for() {
    let mut desk = Desk::with_cluster(&["a"]);
    for _ in 0..3 {
        assert_eq!(asks_for_access(&mut desk, "k-1", Mode::Execute), None);
    }
    assert_eq!(desk.certifies.len(), 1, "it is under way");
    let sealed = SealedAccess::new(b"sealed");
    let answer = certified(&mut desk, Ok(sealed.clone())).unwrap();
    assert_eq!((answer.status, answer.code.as_str()), (ResponseStatus::Done, "certified"));
    assert_eq!(answer.sealed.as_ref(), Some(&sealed));
    assert_eq!(asks_for_access(&mut desk, "k-1", Mode::Execute).as_ref(), Some(&answer));
    assert_eq!(desk.certifies.len(), 0);
    // it is not on the card
    desk.restart();
    let again = asks_for_access(&mut desk, "k-1", Mode::Execute).unwrap();
    assert_eq!((again.status, again.sealed), (ResponseStatus::Done, None));
    assert_eq!(desk.certifies.len(), 0);
}

#[test]
fn only_the_last_few_sealed_answers_are_kept() {
    let mut desk = Desk::with_cluster(&["a"]);
    for number in 0..=SEALED {
        asks_for_access(&mut desk, &format!("k-{number}"), Mode::Execute);
        certified(&mut desk, Ok(SealedAccess::new(&[7]))).unwrap();
    }
    assert_eq!(asks_for_access(&mut desk, "k-0", Mode::Execute).unwrap().sealed, None);
    for number in 1..=SEALED {
        assert!(asks_for_access(&mut desk, &format!("k-{number}"), Mode::Execute).unwrap().sealed.is_some());
    }
}

#[test]
fn a_certificate_is_refused_where_there_is_no_cluster_and_beyond_a_few_at_a_time() {
    let mut desk = Desk::new(&["a"]);
    let refused = asks_for_access(&mut desk, "k-1", Mode::Execute).unwrap();
    assert_eq!((refused.status, refused.code.as_str()), (ResponseStatus::Refused, "no-cluster"));
    let mut desk = Desk::with_cluster(&["a"]);
    let planned = asks_for_access(&mut desk, "k-1", Mode::DryRun).unwrap();
    assert_eq!(planned.status, ResponseStatus::Planned);
    for number in 0..CERTIFYING {
        assert_eq!(asks_for_access(&mut desk, &format!("k-{number}"), Mode::Execute), None);
    }
    assert_eq!(desk.certifies.len(), CERTIFYING);
    let refused = asks_for_access(&mut desk, "k-more", Mode::Execute).unwrap();
    assert_eq!((refused.status, refused.code.as_str()), (ResponseStatus::Refused, "busy"));
}

#[test]
fn a_certificate_that_was_not_issued_is_answered_with_the_reason() {
    let mut desk = Desk::with_cluster(&["a"]);
    asks_for_access(&mut desk, "k-1", Mode::Execute);
    let error = KubeError { code: "no-api", reason: Text::cut("the simulated engine has no API") };
    let answer = certified(&mut desk, Err(error)).unwrap();
    assert_eq!((answer.status, answer.code.as_str(), answer.sealed), (ResponseStatus::Failed, "no-api", None));
    assert_eq!(answer.text.as_str(), "the simulated engine has no API");
}

#[test]
fn an_answer_that_does_not_come_is_asked_for_anew_and_one_that_comes_late_counts_once() {
    let mut desk = Desk::with_cluster(&["a"]);
    asks_for_access(&mut desk, "k-1", Mode::Execute);
    desk.pass(CERTIFY_MS);
    assert_eq!(asks_for_access(&mut desk, "k-1", Mode::Execute), None);
    assert_eq!(desk.certifies.len(), 2);
    let first = certified(&mut desk, Ok(SealedAccess::new(&[1]))).unwrap();
    assert_eq!(certified(&mut desk, Ok(SealedAccess::new(&[2]))), None, "it was answered");
    assert_eq!(asks_for_access(&mut desk, "k-1", Mode::Execute), Some(first));
}

#[test]
fn what_was_dropped_with_a_store_that_failed_is_asked_for_again() {
    let mut desk = Desk::with_cluster(&["a"]);
    asks_for_access(&mut desk, "k-1", Mode::Execute);
    desk.step(Event::StoreFailed);
    desk.pass(2_000);
    assert_eq!(asks_for_access(&mut desk, "k-1", Mode::Execute), None);
    assert_eq!(desk.certifies.len(), 2);
}
