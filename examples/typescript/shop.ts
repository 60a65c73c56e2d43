// A small shop, which holds its callers to limits of ratelimitd:
//
//     ratelimitd serve &
//     (cd ../../clients/typescript && npm ci && npm run build)
//     npm install && npm run build && npm start
//     curl -i localhost:8000/products
//     curl -i -X POST -H 'X-API-Key: secret' localhost:8000/orders
//     curl -i -H 'X-API-Key: secret' 'localhost:8000/report?words=200'
//
// RATELIMITD_ADDR is where the daemon serves, RATELIMITD_TIMEOUT how many milliseconds it may take to answer, and
// SHOP_PORT where the shop serves.
import express from "express";
import { Client, EXEMPT } from "ratelimitd";
import { apiKey, clientAddress, firstOf, rules } from "ratelimitd/express";

const limits = new Client({
  addresses: [process.env.RATELIMITD_ADDR ?? "localhost:8081"],
  timeout: Number(process.env.RATELIMITD_TIMEOUT ?? 50),
});

// One address may ask often, and one customer may order less often.
const perAddress = limits.limiter("shop", { name: "requests", rate: "100/s", strategy: "token_bucket" });
const perCustomer = limits.limiter("shop", { name: "orders", rate: "3/min", strategy: "sliding_window_counter" });
const words = limits.limiter("shop", { name: "words", rate: "1000/day" });

const trusted = ["10.0.0.0/8"];
const customer = firstOf(apiKey("X-API-Key"), clientAddress({ trusted }));
const address = { limiter: perAddress, by: clientAddress({ trusted }) };

const shop = express();
shop.use(
  rules({
    rules: [
      { path: "/healthz", by: () => EXEMPT },
      { methods: ["POST"], path: "/orders", steps: [address, { limiter: perCustomer, by: customer }] },
      { steps: [address] },
    ],
  }),
);
shop.get("/healthz", (_request, response) => void response.end());
shop.get("/products", (_request, response) => void response.send("tea, coffee\n"));
shop.post("/orders", (_request, response) => void response.sendStatus(201));

// A report costs as many words as it gets, which nobody knows before it is written.
shop.get("/report", async (request, response) => {
  const wanted = Number(request.query.words);
  if (!Number.isSafeInteger(wanted) || wanted < 0) {
    response.status(400).send("words: give a number, such as 200\n");
    return;
  }
  const reserved = await words.reserve(await customer(request), wanted);
  if (!reserved.result.allowed) {
    response.status(429).send("too many words today\n");
    return;
  }
  const written = Math.min(wanted, 150); // what it takes to say it
  response.send(`${written} words\n`);
  const { error } = await reserved.commit(written);
  if (error) console.error("a report has cost its estimate:", error.message);
});

shop.listen(Number(process.env.SHOP_PORT ?? 8000));
