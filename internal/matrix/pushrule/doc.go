// SPDX-License-Identifier: Apache-2.0

// Package pushrule holds push rules: the default rules of the specification, rule sets of users, and the verdict of a rule set about an event
// (client-server API, "Push Rules"). Package push stores rule sets and asks for verdicts. It knows nothing of rooms or counts: what depends on
// them comes in as a [Context].
package pushrule
