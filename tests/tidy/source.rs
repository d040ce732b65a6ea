//! Rust sources as the rules see them: parsed, with the test code taken out.

use crate::tree;
use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};
use quote::ToTokens;
use std::collections::BTreeSet;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::visit_mut::{self, VisitMut};

/// A source file.
pub(crate) struct Source {
    /// Its path, relative to the root.
    pub(crate) path: String,
    /// Its text.
    pub(crate) text: String,
    /// All of it.
    pub(crate) whole: syn::File,
    /// It without items that only tests compile.
    pub(crate) shipped: syn::File,
    /// Lines that only tests compile.
    pub(crate) test_lines: usize,
}

/// A path such as `std::net::TcpStream` as the source names it, and its line.
pub(crate) struct Named {
    pub(crate) path: String,
    pub(crate) line: usize,
}

/// Every Rust file of the repository, but for those that are test modules of another one.
pub(crate) fn shipped() -> Vec<Source> {
    let sources: Vec<Source> = tree::files_ending(".rs").iter().map(|p| parse(p)).collect();
    let tests: BTreeSet<String> = sources.iter().flat_map(test_modules).collect();
    let within = |path: &str| {
        let stem = path.trim_end_matches(".rs");
        tests
            .iter()
            .any(|test| stem == test || stem.starts_with(&format!("{test}/")))
    };
    sources.into_iter().filter(|s| !within(&s.path)).collect()
}

/// Every Rust file of the repository.
pub(crate) fn all() -> Vec<Source> {
    tree::files_ending(".rs").iter().map(|p| parse(p)).collect()
}

fn parse(path: &str) -> Source {
    let text = tree::text(path).expect("Rust sources are text");
    let whole = syn::parse_file(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut shipped = whole.clone();
    let mut strip = StripTests { lines: 0 };
    strip.visit_file_mut(&mut shipped);
    Source {
        path: path.to_owned(),
        text,
        whole,
        shipped,
        test_lines: strip.lines,
    }
}

/// The modules that `source` declares for tests only and that lie in files of their own: paths
/// without the ending.
fn test_modules(source: &Source) -> Vec<String> {
    let (dir, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let stem = file.trim_end_matches(".rs");
    let base = match stem {
        "mod" | "lib" | "main" => dir.to_owned(),
        _ => format!("{dir}/{stem}"),
    };
    let modules = source.whole.items.iter().filter_map(|item| match item {
        syn::Item::Mod(module) if module.content.is_none() && for_tests(&module.attrs) => {
            Some(format!("{base}/{}", module.ident))
        }
        _ => None,
    });
    modules.collect()
}

/// Whether these attributes keep an item out of what ships: `#[test]`, `#[cfg(test)]`,
/// `#[cfg(all(test, ..))]`.
fn for_tests(attrs: &[syn::Attribute]) -> bool {
    attrs.iter().any(|attr| {
        if attr.path().is_ident("test") {
            return true;
        }
        let text = attr.meta.to_token_stream().to_string();
        attr.path().is_ident("cfg")
            && !text.contains("not")
            && !text.contains("any")
            && text
                .split(|c: char| !c.is_alphanumeric())
                .any(|word| word == "test")
    })
}

struct StripTests {
    lines: usize,
}

impl StripTests {
    fn keep(&mut self, attrs: &[syn::Attribute], item: &impl Spanned) -> bool {
        let drop = for_tests(attrs);
        if drop {
            let span = item.span();
            self.lines += span.end().line - span.start().line + 1;
        }
        !drop
    }
}

impl VisitMut for StripTests {
    fn visit_file_mut(&mut self, file: &mut syn::File) {
        file.items.retain(|item| self.keep(attrs(item), item));
        visit_mut::visit_file_mut(self, file);
    }

    fn visit_item_mod_mut(&mut self, module: &mut syn::ItemMod) {
        if let Some((_, items)) = &mut module.content {
            items.retain(|item| self.keep(attrs(item), item));
        }
        visit_mut::visit_item_mod_mut(self, module);
    }

    fn visit_item_impl_mut(&mut self, block: &mut syn::ItemImpl) {
        block.items.retain(|item| match item {
            syn::ImplItem::Fn(function) => self.keep(&function.attrs, function),
            _ => true,
        });
        visit_mut::visit_item_impl_mut(self, block);
    }
}

fn attrs(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        _ => &[],
    }
}

/// Every path the file names, imports expanded (`a::{b, c}` gives `a::b` and `a::c`), inside macro
/// calls too.
pub(crate) fn paths(file: &syn::File) -> Vec<Named> {
    let mut found = Vec::new();
    collect(file.to_token_stream(), "", &mut found);
    found
}

fn collect(tokens: TokenStream, prefix: &str, found: &mut Vec<Named>) {
    let mut path = prefix.to_owned();
    let mut last = 0;
    let mut after_separator = !prefix.is_empty();
    let mut trees = tokens.into_iter().peekable();
    let end = |path: &mut String, line: usize, found: &mut Vec<Named>| {
        let named = std::mem::replace(path, prefix.to_owned());
        if named != prefix {
            found.push(Named { path: named, line });
        }
    };
    while let Some(tree) = trees.next() {
        match tree {
            TokenTree::Ident(ident) => {
                if !after_separator {
                    end(&mut path, last, found);
                }
                if !path.is_empty() {
                    path.push_str("::");
                }
                path.push_str(&ident.to_string());
                last = ident.span().start().line;
                after_separator = false;
            }
            TokenTree::Punct(colon)
                if colon.as_char() == ':' && colon.spacing() == Spacing::Joint =>
            {
                trees.next();
                after_separator = true;
            }
            TokenTree::Group(group) if after_separator && group.delimiter() == Delimiter::Brace => {
                collect(group.stream(), &path, found);
                path = prefix.to_owned();
                after_separator = !prefix.is_empty();
            }
            TokenTree::Group(group) => {
                end(&mut path, last, found);
                after_separator = !prefix.is_empty();
                collect(group.stream(), "", found);
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {
                end(&mut path, last, found);
                after_separator = !prefix.is_empty();
            }
        }
    }
    end(&mut path, last, found);
}

/// A function: its name, its first line, and its lines of code (blank and comment lines do not
/// count).
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) code_lines: usize,
}

/// The functions that ship, methods included.
pub(crate) fn functions(source: &Source) -> Vec<Function> {
    let mut finder = Functions {
        lines: source.text.lines().collect(),
        found: Vec::new(),
    };
    finder.visit_file(&source.shipped);
    finder.found
}

struct Functions<'a> {
    lines: Vec<&'a str>,
    found: Vec<Function>,
}

impl Functions<'_> {
    fn add(&mut self, name: &syn::Ident, block: &syn::Block) {
        let (first, last) = (block.span().start().line, block.span().end().line);
        let code = self.lines[first - 1..last].iter().filter(|line| {
            let line = line.trim();
            !line.is_empty() && !line.starts_with("//")
        });
        self.found.push(Function {
            name: name.to_string(),
            line: name.span().start().line,
            code_lines: code.count(),
        });
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.add(&function.sig.ident, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.add(&function.sig.ident, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.add(&function.sig.ident, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

#[test]
fn paths_are_found_in_imports_macros_and_expressions() {
    let file = syn::parse_file(
        "use std::{net::{IpAddr, TcpStream}, thread};\n\
         fn f() { m!(a::b(c::d)); let x: Vec<std::time::Instant> = e::<g::h>(); }",
    )
    .unwrap();
    let found: Vec<String> = paths(&file).into_iter().map(|named| named.path).collect();
    for path in [
        "std::net::IpAddr",
        "std::net::TcpStream",
        "std::thread",
        "a::b",
        "c::d",
        "std::time::Instant",
        "g::h",
    ] {
        assert!(found.iter().any(|f| f == path), "{path} in {found:?}");
    }
}

#[test]
fn test_code_is_taken_out_and_counted() {
    let text =
        "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() {}\n}\n#[cfg(not(test))]\nfn c() {}\n";
    let mut file = syn::parse_file(text).unwrap();
    let mut strip = StripTests { lines: 0 };
    strip.visit_file_mut(&mut file);
    assert_eq!((file.items.len(), strip.lines), (2, 4));
}
