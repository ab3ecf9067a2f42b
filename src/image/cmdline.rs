//! `cmdline.txt`: the kernel's command line, the first line of the file and nothing else of it.
//!
//! A line break in the middle is the classic way to a Pi that does not boot, so words are added to the end of the one line
//! and nothing else is touched: neither what ends the line, nor what stands below it, nor the order of what is there.

/// Why the line is not edited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CmdlineError {
    /// It says nothing.
    #[error("the first line of cmdline.txt is empty: a Pi with it does not find its root file system")]
    Empty,
    /// Somebody else runs something at the first boot.
    #[error(
        "cmdline.txt runs something of its own at the first boot ({word}); take an image that no other tool has prepared"
    )]
    Taken {
        /// The word that says so.
        word: String,
    },
    /// It is no text.
    #[error("cmdline.txt is no text")]
    NoText,
}

/// The first line without what ends it, and the rest.
fn split(text: &str) -> (&str, &str) {
    let first = text.split('\n').next().unwrap_or_default().trim_end();
    (first, text.get(first.len()..).unwrap_or_default())
}

/// What stands before the `=` of a word, and that.
fn key(word: &str) -> &str {
    word.find('=').and_then(|at| word.get(..=at)).unwrap_or(word)
}

/// Adds those of `words` that the line does not have.
///
/// # Errors
/// If the line is empty, or if it says something else where one of `own` keys (`systemd.run=`) is ours.
pub fn add(text: &str, words: &[String], own: &[&str]) -> Result<String, CmdlineError> {
    let (line, rest) = split(text);
    if line.is_empty() {
        return Err(CmdlineError::Empty);
    }
    let has: Vec<&str> = line.split_whitespace().collect();
    if let Some(word) = has.iter().find(|word| own.contains(&key(word)) && !words.iter().any(|ours| ours == *word)) {
        return Err(CmdlineError::Taken { word: (*word).to_owned() });
    }
    let mut edited = line.to_owned();
    for word in words.iter().filter(|word| !has.contains(&word.as_str())) {
        edited.push(' ');
        edited.push_str(word);
    }
    edited.push_str(rest);
    Ok(edited)
}

/// A line below the first one, which the firmware does not read.
pub fn stray(text: &str) -> Option<&str> {
    text.lines().skip(1).map(str::trim).find(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn words_go_to_the_end_of_the_one_line() {
        let ours = words(&["cgroup_memory=1", "cgroup_enable=memory"]);
        for (before, after) in [
            ("root=a rootwait\n", "root=a rootwait cgroup_memory=1 cgroup_enable=memory\n"),
            ("root=a rootwait", "root=a rootwait cgroup_memory=1 cgroup_enable=memory"),
            ("root=a rootwait \r\n", "root=a rootwait cgroup_memory=1 cgroup_enable=memory \r\n"),
            ("root=a cgroup_enable=memory\nstray\n", "root=a cgroup_enable=memory cgroup_memory=1\nstray\n"),
            (" root=a\n\n", " root=a cgroup_memory=1 cgroup_enable=memory\n\n"),
        ] {
            assert_eq!(add(before, &ours, &[]).unwrap(), after);
        }
        assert_eq!(add("\nroot=a\n", &ours, &[]), Err(CmdlineError::Empty));
        assert_eq!(add("", &ours, &[]), Err(CmdlineError::Empty));
        assert_eq!(stray("a\n\n b\n"), Some("b"));
        assert_eq!(stray("a\n\n"), None);
    }

    #[test]
    fn another_tools_first_boot_is_not_overwritten() {
        let ours = words(&["systemd.run=/boot/firstrun.sh"]);
        let own = ["systemd.run="];
        assert!(add("root=a systemd.run=/boot/firstrun.sh", &ours, &own).is_ok());
        let error = add("root=a systemd.run=/boot/other.sh", &ours, &own).unwrap_err();
        assert!(error.to_string().contains("systemd.run=/boot/other.sh"), "{error}");
    }

    proptest! {
        #[test]
        fn a_second_time_changes_nothing_and_everything_that_was_there_stays(
            text in "[ -~\t\r\n]{0,200}", ours in proptest::collection::vec("[a-z._]{1,8}(=[a-z0-9/]{1,8})?", 0..4)
        ) {
            let Ok(once) = add(&text, &ours, &[]) else { return Ok(()) };
            prop_assert_eq!(&add(&once, &ours, &[]).unwrap(), &once);
            let lines = |text: &str| text.matches('\n').count();
            prop_assert_eq!(lines(&once), lines(&text));
            let has: Vec<&str> = split(&once).0.split_whitespace().collect();
            prop_assert!(ours.iter().all(|word| has.contains(&word.as_str())));
            // what was added, taken out again, gives the file byte for byte
            let (line, rest) = split(&text);
            prop_assert!(once.starts_with(line) && once.ends_with(rest));
            let added = &once[line.len()..once.len() - rest.len()];
            prop_assert!(added.split_whitespace().all(|word| ours.iter().any(|ours| ours == word)));
        }
    }
}
