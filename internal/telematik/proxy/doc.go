// SPDX-License-Identifier: Apache-2.0

// Package proxy is the Messenger-Proxy: the rules of the TI-Messenger in front of somebody else's homeserver. [Proxy] is the reverse proxy for the
// client-server and the server-server API; [Outbound] is the forward proxy by which that homeserver reaches the world. Neither has a rule of its own:
// both find out who asks for what, ask telematik/permission, and hand on what it allows, unbuffered. The homeserver behind stays the one that checks
// tokens, signatures and what Matrix itself demands. What the proxy keeps are copies of people's permission configurations, nothing else.
package proxy
