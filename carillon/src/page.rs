//! The demo page, part of the binary: `carillon dev` serves it at `/`.

use carillon_gateway::Page;

pub(crate) const PAGES: &[Page] = &[
    Page { path: "/", content_type: "text/html; charset=utf-8", body: include_bytes!("../page/index.html") },
    Page { path: "/app.js", content_type: "text/javascript; charset=utf-8", body: include_bytes!("../page/app.js") },
    Page { path: "/style.css", content_type: "text/css; charset=utf-8", body: include_bytes!("../page/style.css") },
];
