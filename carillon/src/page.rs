//! The demo page, part of the binary: `carillon dev` serves it at `/`.

use carillon_gateway::Page;

pub(crate) const PAGES: &[Page] = &[
    Page { path: "/", content_type: "text/html; charset=utf-8", body: include_bytes!("../page/index.html") },
    Page { path: "/app.js", content_type: "text/javascript; charset=utf-8", body: include_bytes!("../page/app.js") },
    // The SDK of `clients/typescript`, built. The build there writes it, and its check keeps it current.
    Page { path: "/carillon.js", content_type: "text/javascript; charset=utf-8", body: include_bytes!("../page/carillon.js") },
    Page { path: "/style.css", content_type: "text/css; charset=utf-8", body: include_bytes!("../page/style.css") },
];
