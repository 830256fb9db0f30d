// What llama.cpp makes of a text: its token ids, the logits after them, and the ids of the greedy continuation, as JSON.
//     greedy MODEL.gguf TEXT_FILE NUM_NEW_TOKENS
#include "llama.h"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

static void print_ids(const char * name, const std::vector<llama_token> & ids) {
    printf("\"%s\": [", name);
    for (size_t i = 0; i < ids.size(); i++) printf("%s%d", i ? ", " : "", ids[i]);
    printf("]");
}

int main(int argc, char ** argv) {
    if (argc != 4) return 2;
    llama_log_set([](ggml_log_level level, const char * text, void *) { if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr); }, nullptr);
    std::ifstream file(argv[2], std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    llama_backend_init();
    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) return 1;
    const llama_vocab * vocab = llama_model_get_vocab(model);
    std::vector<llama_token> prompt(text.size() + 8), next;
    prompt.resize(llama_tokenize(vocab, text.data(), text.size(), prompt.data(), prompt.size(), false, false));

    const int num_tokens = atoi(argv[3]);
    llama_context_params params = llama_context_default_params();
    params.n_ctx = num_tokens ? prompt.size() + num_tokens + 8 : 8;
    params.n_batch = params.n_ubatch = params.n_ctx;
    params.n_threads = params.n_threads_batch = 1;
    params.type_k = params.type_v = GGML_TYPE_F32;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    llama_context * context = llama_init_from_model(model, params);
    if (!context) return 1;
    const int vocab_size = llama_vocab_n_tokens(vocab);
    std::vector<float> first;
    llama_batch batch = llama_batch_get_one(prompt.data(), prompt.size());
    for (int i = 0; i < num_tokens; i++) {
        if (llama_decode(context, batch)) return 1;
        const float * logits = llama_get_logits_ith(context, -1);
        if (first.empty()) first.assign(logits, logits + vocab_size);
        next.push_back(std::max_element(logits, logits + vocab_size) - logits);
        batch = llama_batch_get_one(&next.back(), 1);
    }
    printf("{");
    print_ids("prompt", prompt);
    printf(", ");
    print_ids("tokens", next);
    printf(", \"logits\": [");
    for (size_t i = 0; i < first.size(); i++) printf("%s%.9g", i ? ", " : "", first[i]);
    printf("]}\n");
}
