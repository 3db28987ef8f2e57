// SPDX-License-Identifier: Apache-2.0

// Package push owns what is worth a notification: users' push rules, the class of each event by the default rules, highlights, unread counts
// (engine rule 31), subscriptions to threads, the list of notifications and the pushers. Counts are derived from the events after the read marker, never kept as counters.
// It tells push gateways, as a consumer of the stream with a position for each pusher (engine rule 32).
package push
