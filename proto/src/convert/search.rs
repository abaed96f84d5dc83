//! What a search says of the effort it may take.

use crate::limits::EF_MAX;
use crate::refusal::Violation;
use crate::v1;

/// Checks `ef` and `target_recall`: one of them at most, each within its bounds.
pub fn check_effort(request: &v1::SearchRequest) -> Result<(), Violation> {
    if request.ef > EF_MAX {
        return Err(Violation::range("ef", 0, EF_MAX, request.ef));
    }
    let Some(target) = request.target_recall else { return Ok(()) };
    let refuse = |why: String| Err(Violation::new("target_recall", why));
    // NaN is above nothing.
    if !(target > 0.0 && target <= 1.0) {
        return refuse(format!("must be above 0 and at most 1, got {target}"));
    }
    match (request.ef, request.exact) {
        (0, false) => Ok(()),
        (0, true) => refuse("goes without exact, which finds all".to_owned()),
        (ef, _) => {
            refuse(format!("goes without ef, which is {ef}: one of the two says how much effort to take"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_share_and_stands_alone() {
        let ask = |target: f32, ef, exact| {
            let request = v1::SearchRequest { target_recall: Some(target), ef, exact, ..Default::default() };
            check_effort(&request).map_err(|violation| (violation.field, violation.description))
        };
        for target in [f32::MIN_POSITIVE, 0.95, 1.0] {
            assert_eq!(ask(target, 0, false), Ok(()));
        }
        for target in [0.0, -0.5, 1.000_001, f32::NAN, f32::INFINITY] {
            let (field, why) = ask(target, 0, false).unwrap_err();
            assert!(field == "target_recall" && why.contains(&format!("got {target}")), "{why}");
        }
        assert!(ask(0.9, 64, false).unwrap_err().1.contains("64"));
        assert!(ask(0.9, 0, true).unwrap_err().1.contains("exact"));
        assert_eq!(ask(0.9, EF_MAX + 1, false).unwrap_err().0, "ef");
    }
}
