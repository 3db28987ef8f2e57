// SPDX-License-Identifier: Apache-2.0

package database

// SharedTables are the tables that do not belong to a tenant, each with its reason (engine rule 33). Every other table's primary key begins
// with the column tenant, and every statement on it names that column; tests hold both.
var SharedTables = map[string]string{
	"migration":           "the cell's bookkeeping: which migrations have run",
	"host":                "the cell's bookkeeping: which tenant a host name leads to",
	"commit_batch":        "the cell's bookkeeping: each committer's last transaction",
	"server_key":          "public facts: other servers' verified keys",
	"server_key_answer":   "public facts: other servers' signed answers about their keys",
	"server_reach":        "the cell's bookkeeping: which hosts answer (engine rule 21)",
	"federation_domain":   "the federation list publisher's own data",
	"federation_version":  "the federation list publisher's own data",
	"federation_list":     "the federation list that this cell last verified: public facts",
	"directory_resource":  "the directory's own data (central services)",
	"directory_clock":     "the directory's own data (central services)",
	"directory_entry":     "the directory's own data (central services)",
	"directory_text":      "the directory's own data (central services)",
	"directory_posting":   "the directory's own data (central services)",
	"directory_unindexed": "the directory's own data (central services)",
	"directory_link":      "the directory's own data (central services)",
	"directory_log":       "the directory's own data (central services)",
	"directory_signin":    "the directory's own data (central services): outcomes of sign-ins until they are fetched",
	"idp_used":            "the identity provider's own data (central services): answered challenges and redeemed codes until they expire",
	"registration_name":   "the provider's own data: names that it has given out, by what they look like",
	"registration_domain": "the provider's own data: domains that organisations prove before there is a tenant",
	"registration_link":   "the provider's own data: links by which organisations prove themselves before there is a tenant",
	"console_visit":       "the provider's own data: browsers in which an organisation registers before there is a tenant",
}
