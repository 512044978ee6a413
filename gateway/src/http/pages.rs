//! The page of whoever runs this, at `/admin`, part of the binary. It is open to all, since it holds nothing: what it shows it
//! asks `/admin/api` for, with a token that has the grant `admin`.

use crate::Page;

pub(super) const ADMIN: &[Page] = &[
    Page { path: "/admin", content_type: "text/html; charset=utf-8", body: include_bytes!("../../admin/index.html") },
    Page { path: "/admin/app.js", content_type: "text/javascript; charset=utf-8", body: include_bytes!("../../admin/app.js") },
    Page { path: "/admin/style.css", content_type: "text/css; charset=utf-8", body: include_bytes!("../../admin/style.css") },
];
