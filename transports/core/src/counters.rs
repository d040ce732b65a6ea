/// One counter of many, as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its name: words in lower case with underscores between.
    pub name: &'static str,
    /// What it counts, in the words of its documentation.
    pub help: &'static str,
    /// How many.
    pub value: u64,
}

/// Declares a struct of counters, with `add` to sum them and `iter` to show them. Groups of counters
/// of another struct come behind a semicolon; they are summed along, and shown by themselves.
#[macro_export]
macro_rules! counters {
    (
        $(#[$meta:meta])*
        $vis:vis struct $Name:ident {
            $($(#[doc = $help:literal])+ $name:ident,)*
            $(; $($(#[doc = $group_doc:literal])+ $group:ident: $Group:ty,)*)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        $vis struct $Name {
            $($($(#[doc = $group_doc])+ $vis $group: $Group,)*)?
            $($(#[doc = $help])+ $vis $name: u64,)*
        }

        impl $Name {
            /// Adds another's counters to these.
            $vis fn add(&mut self, other: &Self) {
                $($(self.$group.add(&other.$group);)*)?
                $(self.$name += other.$name;)*
            }

            /// The counters in the order of their declaration, without those of groups.
            $vis fn iter(&self) -> impl Iterator<Item = $crate::Counter> {
                [$($crate::Counter {
                    name: stringify!($name),
                    help: concat!($($help),+).trim_ascii(),
                    value: self.$name,
                },)*]
                .into_iter()
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::Counter;

    counters! {
        /// What is inside.
        struct Inner {
            /// Drops.
            drops,
        }
    }

    counters! {
        /// What is outside.
        struct Outer {
            /// Things
            /// taken in.
            taken,
            /// Given.
            given,
            ;
            /// The inner ones.
            inner: Inner,
        }
    }

    #[test]
    fn sums_are_of_each_kind_and_groups_are_summed_along() {
        let one = Outer {
            taken: 1,
            given: 2,
            inner: Inner { drops: 3 },
        };
        let mut sum = one;
        sum.add(&one);
        let doubled = Outer {
            taken: 2,
            given: 4,
            inner: Inner { drops: 6 },
        };
        assert_eq!(sum, doubled);
    }

    #[test]
    fn counters_are_shown_in_order_with_their_words() {
        assert_eq!(Inner::default().iter().count(), 1);
        let shown: Vec<Counter> = Outer::default().iter().collect();
        assert_eq!(shown.len(), 2);
        assert_eq!(
            (shown[0].name, shown[0].help),
            ("taken", "Things taken in.")
        );
        assert_eq!((shown[1].name, shown[1].value), ("given", 0));
    }
}
