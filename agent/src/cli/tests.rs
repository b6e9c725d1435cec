//! The command line as a whole: its definition is consistent, in both languages.

use boxmeter_web::locale::Lang;

use super::args;

#[test]
fn the_definition_is_consistent() {
    for lang in [Lang::En, Lang::ZhCn] {
        args::localized(lang).debug_assert();
    }
}
