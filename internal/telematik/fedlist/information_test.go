// SPDX-License-Identifier: Apache-2.0

package fedlist_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/telematik/fedlist"
)

// TestInformation is I_TiMessengerInformation: a doctor's client finds the insurer's server by its number, and whether a server serves insured people.
func TestInformation(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		ctx := context.Background()
		n := newNetwork(t, db, newPKI(t, certificate.RoleDirectory))
		for _, d := range []fedlist.Domain{{Domain: "praxis.example", TelematikID: "1-1"}, {Domain: "kasse.example", TelematikID: "8-1", IsInsurance: true, IK: []string{"109500969"}}} {
			if err := n.Add(ctx, "a", d); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.consumer.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
		tenants := tenant.NewStore(db)
		t.Cleanup(tenants.Close)
		if _, err := tenants.Create(ctx, tenant.Spec{Name: "praxis.example"}); err != nil {
			t.Fatal(err)
		}
		router := httpapi.NewRouter(httpapi.Options{Tenants: tenants, QuietAccess: true})
		router.Add(n.consumer.InformationRoutes(func(_ context.Context, at *tenant.Tenant, token string) error {
			if at.Name != "praxis.example" || token != "anna's" {
				return mxerror.UnknownToken
			}
			return nil
		})...)
		for _, c := range []struct {
			path, token string
			status      int
			body        string
		}{
			{"/", "", 200, `"version":"1.0.0"`},
			{"/v1/server/findByIk?ikNumber=109500969", "anna's", 200, `{"serverName":"kasse.example"}`},
			{"/v1/server/findByIk?ikNumber=109500970", "anna's", 404, `"errorCode":"M_NOT_FOUND"`},
			{"/v1/server/findByIk?ikNumber=12", "anna's", 400, `"errorMessage":`},
			{"/v1/server/findByIk", "anna's", 400, `"errorCode":`},
			{"/v1/server/findByIk?ikNumber=109500969", "", 401, `"errorCode":"M_MISSING_TOKEN"`},
			{"/v1/server/findByIk?ikNumber=109500969", "stolen", 401, `"errorCode":"M_UNKNOWN_TOKEN"`},
			{"/v1/server/isInsurance?serverName=kasse.example", "anna's", 200, `{"isInsurance":true}`},
			{"/v1/server/isInsurance?serverName=praxis.example", "anna's", 200, `{"isInsurance":false}`},
			{"/v1/server/isInsurance?serverName=fremd.example", "anna's", 200, `{"isInsurance":false}`},
			{"/v1/server/isInsurance?serverName=a%2Fb", "anna's", 400, `"errorCode":`},
			{"/v1/server/isInsurance?serverName=kasse.example", "", 401, `"errorCode":`},
		} {
			r := httptest.NewRequest(http.MethodGet, "/tim-information"+c.path, nil)
			r.Host = "praxis.example"
			if c.token != "" {
				r.Header.Set("Authorization", "Bearer "+c.token)
			}
			w := httptest.NewRecorder()
			router.ServeHTTP(w, r)
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.body) {
				t.Errorf("%s: %d %s", c.path, w.Code, w.Body)
			}
		}
	})
}
