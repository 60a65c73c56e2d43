// A small shop, which holds its callers to limits of ratelimitd:
//
//	ratelimitd serve &
//	go run .
//	curl -i localhost:8000/products
//	curl -i -X POST -H 'X-API-Key: secret' localhost:8000/orders
//	curl -i -H 'X-API-Key: secret' 'localhost:8000/report?words=200'
//
// RATELIMITD_ADDR is where the daemon serves, RATELIMITD_TIMEOUT how long it may take to
// answer, such as 75ms, and SHOP_ADDR where the shop serves.
package main

import (
	"cmp"
	"fmt"
	"log"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/ratelimitd/ratelimitd/client"
	"github.com/ratelimitd/ratelimitd/client/httplimit"
)

func main() {
	timeout, err := time.ParseDuration(cmp.Or(os.Getenv("RATELIMITD_TIMEOUT"), "50ms"))
	if err != nil {
		log.Fatal(err)
	}
	limits, err := client.New(client.Options{Addresses: []string{cmp.Or(os.Getenv("RATELIMITD_ADDR"), "localhost:8081")}, Timeout: timeout})
	if err != nil {
		log.Fatal(err)
	}
	defer limits.Close()
	server := &http.Server{Addr: cmp.Or(os.Getenv("SHOP_ADDR"), ":8000"), Handler: newShop(limits), ReadHeaderTimeout: 5 * time.Second}
	if err := server.ListenAndServe(); err != nil {
		log.Print(err)
	}
}

// newShop returns the handler of the shop.
func newShop(limits *client.Client) http.Handler {
	// One address may ask often, and one customer may order less often.
	perAddress := limits.Limiter("shop", client.Limit{Name: "requests", Rate: "100/s", Strategy: client.TokenBucket})
	perCustomer := limits.Limiter("shop", client.Limit{Name: "orders", Rate: "3/min", Strategy: client.SlidingWindowCounter})
	words := limits.Limiter("shop", client.Limit{Name: "words", Rate: "1000/day"})

	customer := httplimit.FirstOf(httplimit.APIKey("X-API-Key"), httplimit.ClientAddress("10.0.0.0/8"))
	address := httplimit.Step{Limiter: perAddress, By: httplimit.ClientAddress("10.0.0.0/8")}
	limited := httplimit.New(httplimit.Options{Rules: []httplimit.Rule{
		{Path: "/healthz", By: func(*http.Request) string { return client.Exempt }},
		{Methods: []string{http.MethodPost}, Path: "/orders", Steps: []httplimit.Step{address, {Limiter: perCustomer, By: customer}}},
		{Steps: []httplimit.Step{address}},
	}})

	shop := http.NewServeMux()
	shop.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	shop.HandleFunc("GET /products", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "tea, coffee") })
	shop.HandleFunc("POST /orders", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated) })

	// A report costs as many words as it gets, which nobody knows before it is written.
	shop.HandleFunc("GET /report", func(w http.ResponseWriter, r *http.Request) {
		wanted, err := strconv.ParseUint(r.URL.Query().Get("words"), 10, 32)
		if err != nil {
			http.Error(w, "words: give a number, such as 200", http.StatusBadRequest)
			return
		}
		reserved := words.Reserve(r.Context(), customer(r), wanted)
		if !reserved.Result.Allowed {
			http.Error(w, "too many words today", http.StatusTooManyRequests)
			return
		}
		written := min(wanted, 150) // what it takes to say it
		fmt.Fprintf(w, "%d words\n", written)
		if settled := reserved.Commit(r.Context(), written); settled.Err != nil {
			log.Print("a report has cost its estimate: ", settled.Err)
		}
	})
	return limited(shop)
}
