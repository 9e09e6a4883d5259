"""What writes the turns: one file for each inference engine, and what they share.

- `async_policy`: policies whose turns are written elsewhere: one request a turn, all in flight at once
- `http_client`: calls of a generation server over HTTP: one client, retries with exponential backoff, errors that say
  what to do
- `kv_cache`: keys and values of all rows, kept across turns, and the attention over them
- `kv_layout`: where the tokens of one packed forward belong: which cache row and position each has, and what it may
  look at
- `kv_room`: how many rows of keys and values a GPU has room for
- `kv_rows`: the rows of a `TransformersPolicy`: which episode each cache row holds, what it does, what it has written
- `kv_sampling`: drawing tokens: all rows at once, each row by its own seed, whatever else is in the batch
- `openai`: A policy that asks any OpenAI-compatible server, turn by turn with stop sequences. For evaluation only
- `scripted`: A policy that reads its turns from a script: the shipped fake for tests and examples
- `stepping`: A policy over a synchronous engine that lives in this process, such as vLLM's beside the model being
  trained
- `stop_strings`: where a turn ends: with the token that completes a stop string, with an end-of-sequence token, or at
  the limit
- `text_tokenizer`: the tokenizer of `OpenAIPolicy`: a context is token ids for the engine, text or messages for the
  server
- `transformers`: A policy that generates with any Hugging Face causal LM: continuous batching, keys and values kept
  across turns
- `vllm`: A policy that generates with vLLM inside of this process, asynchronously, one request a turn
- `vllm_server`: A policy that generates with a running ``vllm serve``: token ids over HTTP, one request a turn
"""
