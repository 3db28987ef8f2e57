// SPDX-License-Identifier: Apache-2.0

// Package media owns files: upload (at once or announced first), download, thumbnails, the copies of other servers' files and the limits on all of
// them. Content lies on disk by tenant; a tenant's own uploads are stored once per content, never shared between tenants, because equal
// content would then tell one tenant about another (matrix.md §5). The authenticated endpoints serve everything, the deprecated ones without a
// token only what they are allowed to. federation fetches through [Remote] and reaches the server-server routes here. Content is
// mostly encrypted: the package looks inside only for a thumbnail, and decides nothing by what it sees.
package media
