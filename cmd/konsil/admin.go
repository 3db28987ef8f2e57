// SPDX-License-Identifier: Apache-2.0

package main

// adminCommand is konsil admin: what an operator does with the data of a configuration (docs/operating-rooms.md, docs/operating-federation.md).
// Commands that read open the database; those that write ask the running server.
type adminCommand struct {
	Room       roomCommand       `cmd:"" help:"Look at rooms, join their loose ends, remove them."`
	Federation federationCommand `cmd:"" help:"Look at the servers that get something from a tenant, and try them again."`
	Epoch      epochCommand      `cmd:"" help:"After a restore, or when commits may have been lost."`
}

// roomCommand is konsil admin room.
type roomCommand struct {
	List        roomListCommand        `cmd:"" help:"List a tenant's rooms."`
	Show        roomShowCommand        `cmd:"" help:"Say what a room consists of."`
	State       roomStateCommand       `cmd:"" help:"List the state now, or before or after an event."`
	Extremities roomExtremitiesCommand `cmd:"" help:"List the forward extremities."`
	Merge       roomMergeCommand       `cmd:"" name:"merge-extremities" help:"Join many forward extremities by events that say nothing. Asks the running server."`
	Graph       roomGraphCommand       `cmd:"" help:"Write the newest events as a Graphviz graph: rejected red, soft-failed orange, missing dashed."`
	Purge       roomPurgeCommand       `cmd:"" help:"Remove the tenant's copy of a room for good. Asks the running server."`
}

// federationCommand is konsil admin federation.
type federationCommand struct {
	List  destinationListCommand  `cmd:"" help:"List a tenant's destinations with their state, their failures and what waits for them."`
	Retry destinationRetryCommand `cmd:"" help:"Try a destination at once; its failures go on counting. Asks the running server."`
	Reset destinationResetCommand `cmd:"" help:"Forget a destination's failures and where it was found, and try it at once. Asks the running server."`
}

// epochCommand is konsil admin epoch.
type epochCommand struct {
	Raise epochRaiseCommand `cmd:"" help:"Begin a new epoch: clients and other servers fetch anew what they may have missed. Asks the running server, unless --offline."`
}
