//! What a search says of the effort it may take.

use crate::limits::{EF_MAX, OVERSAMPLING_MAX};
use crate::refusal::Violation;
use crate::v1;

/// Checks `ef`, `target_recall` and `oversampling`: each within its bounds, and a target without the others.
pub fn check_effort(request: &v1::SearchRequest) -> Result<(), Violation> {
    if request.ef > EF_MAX {
        return Err(Violation::range("ef", 0, EF_MAX, request.ef));
    }
    if let Some(times) = request.oversampling {
        let refuse = |why: String| Err(Violation::new("oversampling", why));
        // NaN is in no range.
        if !(1.0..=OVERSAMPLING_MAX).contains(&times) {
            return refuse(format!("must be 1 to {OVERSAMPLING_MAX}, got {times}"));
        }
        if request.exact {
            return refuse("goes without exact, which compares all by their vectors".to_owned());
        }
    }
    let Some(target) = request.target_recall else { return Ok(()) };
    let refuse = |why: String| Err(Violation::new("target_recall", why));
    // NaN is above nothing.
    if !(target > 0.0 && target <= 1.0) {
        return refuse(format!("must be above 0 and at most 1, got {target}"));
    }
    if let Some(times) = request.oversampling {
        return refuse(format!("goes without oversampling, which is {times}: it was measured without"));
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
    fn oversampling_has_bounds_and_goes_without_exact_and_without_a_target() {
        let ask = |times: f32, exact, target_recall| {
            let oversampling = Some(times);
            let request =
                v1::SearchRequest { oversampling, exact, target_recall, ef: 0, ..Default::default() };
            check_effort(&request).map_err(|violation| (violation.field, violation.description))
        };
        for times in [1.0, 2.5, 100.0] {
            assert_eq!(ask(times, false, None), Ok(()));
        }
        for times in [0.0, 0.999, -1.0, 100.1, f32::NAN, f32::INFINITY] {
            let (field, why) = ask(times, false, None).unwrap_err();
            assert!(field == "oversampling" && why.contains(&format!("got {times}")), "{why}");
        }
        assert_eq!(ask(2.0, true, None).unwrap_err().0, "oversampling");
        assert_eq!(ask(2.0, false, Some(0.9)).unwrap_err().0, "target_recall");
    }

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
