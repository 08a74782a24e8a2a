//! The page around the sections: head, content security policy, style, navigation, script.

use super::{Stage, view::View};
use data_encoding::BASE64;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

/// The style of every page.
const STYLE: &str = include_str!("page.css");
/// The script of every page.
const SCRIPT: &str = include_str!("page.js");

/// Returns the whole page.
pub(super) fn document(views: &[View<'_>], body: &Markup, stage: Stage<'_>) -> String {
    let live = match stage {
        Stage::Ended => None,
        Stage::Running { script } => Some(script),
    };
    let title = views.iter().map(|view| view.plan.name.as_str()).collect::<Vec<_>>().join(", ");
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy(live));
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="generator" content="testbed";
                title { (title) " – live migration report" }
                // An icon, so that browsers do not look for one beside the page.
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "Skip to the report" }
                main id="main" { (body) }
                script { (PreEscaped(SCRIPT)) }
                @if let Some(live) = live {
                    script { (PreEscaped(live)) }
                }
            }
        }
    };
    page.into_string()
}

/// Returns the content security policy: only this style and these scripts, and connections only from a page
/// that is kept up to date, to the server that it came from.
fn policy(live: Option<&str>) -> String {
    let hash = |text: &str| format!("'sha256-{}'", BASE64.encode(&Sha256::digest(text)));
    let scripts = [SCRIPT].into_iter().chain(live).map(hash).collect::<Vec<_>>().join(" ");
    let connect = if live.is_some() { "; connect-src 'self'" } else { "" };
    let style = hash(STYLE);
    format!(
        "default-src 'none'; style-src {style}; script-src {scripts}; img-src data:; base-uri 'none'; \
         form-action 'none'{connect}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn style_and_script_cannot_end_their_elements() {
        for text in [STYLE, SCRIPT] {
            assert!(!text.contains("</") && !text.contains("<!--"));
        }
    }

    #[test]
    fn only_a_live_page_may_connect() {
        assert!(!policy(None).contains("connect-src"));
        let live = policy(Some("1"));
        assert!(live.ends_with("; connect-src 'self'"), "{live}");
        assert_eq!(live.matches("'sha256-").count(), 3);
    }
}
