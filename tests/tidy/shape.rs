//! Sizes, names and the places where `unsafe` may stand.

use crate::{report, source, tree};
use syn::visit::{self, Visit};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

#[test]
fn files_stay_short() {
    let long: Vec<String> = source::shipped()
        .iter()
        .map(|s| (s, s.text.lines().count() - s.test_lines))
        .filter(|(_, lines)| *lines >= FILE_LINES_MAX)
        .map(|(s, lines)| format!("{}: {lines} lines", s.path))
        .collect();
    report(
        "file of 600 lines or more without its tests: split it by idea",
        &long,
    );
}

#[test]
fn functions_stay_short() {
    let mut long = Vec::new();
    for source in source::shipped() {
        for function in source::functions(&source) {
            if function.code_lines >= FUNCTION_LINES_MAX {
                long.push(format!(
                    "{}:{}: {} has {} lines of code",
                    source.path, function.line, function.name, function.code_lines
                ));
            }
        }
    }
    report(
        "function of 70 lines or more: name its parts and move them out",
        &long,
    );
}

#[test]
fn modules_have_names_that_say_what_is_in_them() {
    let drawers: Vec<String> = tree::files_ending(".rs")
        .into_iter()
        .filter(|path| {
            path.trim_end_matches(".rs")
                .split('/')
                .any(|part| matches!(part, "util" | "utils" | "common" | "misc" | "helpers"))
        })
        .collect();
    report(
        "module named like a drawer: name it for what it does",
        &drawers,
    );
}

/// Where `unsafe` may stand: the system-call layers, the raw loops the benchmarks measure against,
/// and the allocator that counts.
fn may_be_unsafe(path: &str) -> bool {
    const FOLDERS: [&str; 5] = [
        "engine/src/io/uring",
        "engine/src/io/sys",
        "bench/src/limit",
        "bench/src/raw",
        "tests/allocation/counter",
    ];
    FOLDERS.iter().any(|folder| {
        path.strip_prefix(folder)
            .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    })
}

#[derive(Default)]
struct Unsafety {
    lines: Vec<usize>,
}

impl<'ast> Visit<'ast> for Unsafety {
    fn visit_token_stream(&mut self, tokens: &'ast proc_macro2::TokenStream) {
        self.lines.extend(unsafe_words(tokens.clone()));
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.lines.push(block.unsafe_token.span.start().line);
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_item_impl(&mut self, block: &'ast syn::ItemImpl) {
        self.lines
            .extend(block.unsafety.map(|word| word.span.start().line));
        visit::visit_item_impl(self, block);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.lines
            .extend(item.unsafety.map(|word| word.span.start().line));
        visit::visit_item_trait(self, item);
    }

    fn visit_item_foreign_mod(&mut self, item: &'ast syn::ItemForeignMod) {
        self.lines
            .extend(item.unsafety.map(|word| word.span.start().line));
        visit::visit_item_foreign_mod(self, item);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.lines
            .extend(signature.unsafety.map(|word| word.span.start().line));
        visit::visit_signature(self, signature);
    }
}

fn unsafe_words(tokens: proc_macro2::TokenStream) -> Vec<usize> {
    tokens
        .into_iter()
        .flat_map(|tree| match tree {
            proc_macro2::TokenTree::Group(group) => unsafe_words(group.stream()),
            proc_macro2::TokenTree::Ident(word) if word == "unsafe" => {
                vec![word.span().start().line]
            }
            _ => Vec::new(),
        })
        .collect()
}

#[test]
fn unsafe_stays_in_the_system_call_layers() {
    let mut found = Vec::new();
    for source in source::all().iter().filter(|s| !may_be_unsafe(&s.path)) {
        let mut finder = Unsafety::default();
        finder.visit_file(&source.whole);
        found.extend(
            finder
                .lines
                .iter()
                .map(|line| format!("{}:{line}", source.path)),
        );
    }
    report(
        "`unsafe` outside engine/src/io/{uring,sys}: move the system call there, behind a safe \
         function",
        &found,
    );
}

#[derive(Default)]
struct Allows {
    lines: Vec<usize>,
}

impl<'ast> Visit<'ast> for Allows {
    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if attribute.path().is_ident("allow") {
            self.lines.push(attribute.pound_token.span.start().line);
        }
    }
}

#[test]
fn lints_are_expected_with_a_reason_never_allowed() {
    let mut found = Vec::new();
    for source in source::all() {
        let mut finder = Allows::default();
        finder.visit_file(&source.whole);
        found.extend(
            finder
                .lines
                .iter()
                .map(|line| format!("{}:{line}", source.path)),
        );
    }
    report(
        "`allow` attribute: fix the cause, or use `expect` on the smallest item with a reason",
        &found,
    );
}
