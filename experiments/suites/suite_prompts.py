"""The prompts of the suites, language by language. What is not ours says where it is from.

Written for this project by a language model and proofread by the same means, not by native
speakers. Corrections are welcome; they change figures, so they come with a new version number.
"""

# XNLI: text, claim, question, heading of the possible answers, the request for a reason, its
# heading. The label words and "answer" are in `lm_eval_specfair.harness.suites.words`.
INFERENCE = {
    "ar": (
        "النص",
        "الادعاء",
        "هل يُستنتج الادعاء من النص؟",
        "الإجابات الممكنة",
        "اذكر السبب أولاً في جملة واحدة، ثم الإجابة.",
        "السبب",
    ),
    "bg": (
        "Текст",
        "Твърдение",
        "Следва ли твърдението от текста?",
        "Възможни отговори",
        "Първо посочи причината с едно изречение, а след това отговора.",
        "Причина",
    ),
    "de": (
        "Text",
        "Behauptung",
        "Folgt die Behauptung aus dem Text?",
        "Mögliche Antworten",
        "Nenne zuerst in einem Satz den Grund, dann die Antwort.",
        "Grund",
    ),
    "el": (
        "Κείμενο",
        "Ισχυρισμός",
        "Προκύπτει ο ισχυρισμός από το κείμενο;",
        "Πιθανές απαντήσεις",
        "Δώσε πρώτα τον λόγο με μία πρόταση και μετά την απάντηση.",
        "Λόγος",
    ),
    "en": (
        "Text",
        "Claim",
        "Does the claim follow from the text?",
        "Possible answers",
        "First give the reason in one sentence, then the answer.",
        "Reason",
    ),
    "es": (
        "Texto",
        "Afirmación",
        "¿Se deduce la afirmación del texto?",
        "Respuestas posibles",
        "Da primero la razón en una frase y después la respuesta.",
        "Razón",
    ),
    "fr": (
        "Texte",
        "Affirmation",
        "L'affirmation découle-t-elle du texte ?",
        "Réponses possibles",
        "Donne d'abord la raison en une phrase, puis la réponse.",
        "Raison",
    ),
    "hi": (
        "पाठ",
        "कथन",
        "क्या यह कथन पाठ से निकलता है?",
        "संभावित उत्तर",
        "पहले एक वाक्य में कारण बताइए, फिर उत्तर दीजिए।",
        "कारण",
    ),
    "ru": (
        "Текст",
        "Утверждение",
        "Следует ли утверждение из текста?",
        "Возможные ответы",
        "Сначала назови причину одним предложением, затем дай ответ.",
        "Причина",
    ),
    "sw": (
        "Maandishi",
        "Dai",
        "Je, dai linatokana na maandishi?",
        "Majibu yanayowezekana",
        "Kwanza toa sababu kwa sentensi moja, kisha jibu.",
        "Sababu",
    ),
    "th": (
        "ข้อความ",
        "ข้ออ้าง",
        "ข้ออ้างนี้สรุปได้จากข้อความหรือไม่",
        "คำตอบที่เป็นไปได้",
        "ให้เหตุผลก่อนหนึ่งประโยค แล้วจึงตอบ",
        "เหตุผล",
    ),
    "tr": (
        "Metin",
        "İddia",
        "İddia metinden çıkarılabilir mi?",
        "Olası cevaplar",
        "Önce nedenini bir cümleyle yaz, sonra cevabı ver.",
        "Neden",
    ),
    "ur": (
        "متن",
        "دعویٰ",
        "کیا یہ دعویٰ متن سے نکلتا ہے؟",
        "ممکنہ جوابات",
        "پہلے ایک جملے میں وجہ بتائیں، پھر جواب دیں۔",
        "وجہ",
    ),
    "vi": (
        "Văn bản",
        "Nhận định",
        "Có thể suy ra nhận định từ văn bản không?",
        "Các câu trả lời có thể chọn",
        "Trước hết hãy nêu lý do trong một câu, sau đó trả lời.",
        "Lý do",
    ),
    "zh": (
        "文本",
        "陈述",
        "能否从文本推出该陈述？",
        "可选答案",
        "请先用一句话说明理由，然后给出答案。",
        "理由",
    ),
}

# MGSM: question, step-by-step answer, from lm-eval's tasks/mgsm, which has them from Shi et al. In
# Russian lm-eval writes the second without its space.
MATH = {
    "bn": ("প্রশ্ন:", "ধাপে ধাপে উত্তর:"),
    "de": ("Frage:", "Schritt-für-Schritt-Antwort:"),
    "en": ("Question:", "Step-by-Step Answer:"),
    "es": ("Pregunta:", "Respuesta paso a paso:"),
    "fr": ("Question :", "Réponse étape par étape :"),
    "ja": ("問題：", "ステップごとの答え:"),
    "ru": ("Задача:", "Пошаговое решение:"),
    "sw": ("Swali:", "Jibu la Hatua kwa Hatua:"),
    "te": ("ప్రశ్న:", "దశలవారీగా సమాధానం:"),
    "th": ("โจทย์:", "คำตอบทีละขั้นตอน:"),
    "zh": ("问题：", "逐步解答:"),
}

# Extractive question answering: context, question, answer. From lm-eval's tasks/xquad and
# tasks/tydiqa; the Arabic of tasks/xquad lacks a letter, so tasks/tydiqa's is taken.
QA = {
    "ar": ("السياق", "السؤال", "الإجابة"),
    "bn": ("প্রসঙ্গ", "প্রশ্ন", "উত্তর"),
    "de": ("Kontext", "Frage", "Antwort"),
    "el": ("Συμφραζόμενα", "Ερώτηση", "Απάντηση"),
    "en": ("Context", "Question", "Answer"),
    "es": ("Contexto", "Pregunta", "Respuesta"),
    "fi": ("Konteksti", "Kysymys", "Vastaus"),
    "hi": ("प्रसंग", "सवाल", "उत्तर"),
    "id": ("Konteks", "Pertanyaan", "Jawaban"),
    "ko": ("맥락", "질문", "답변"),
    "ro": ("Context", "Întrebare", "Răspuns"),
    "ru": ("Контекст", "Вопрос", "Ответ"),
    "sw": ("Muktadha", "Swali", "Jibu"),
    "te": ("సందర్భం", "ప్రశ్న", "సమాధానం"),
    "th": ("บริบท", "คำถาม", "คำตอบ"),
    "tr": ("Bağlam", "Soru", "Cevap"),
    "vi": ("Bối cảnh", "Câu hỏi", "Trả lời"),
    "zh": ("语境", "问题", "回答"),
}
